// Set up cross-signing, secret storage and key backup; lose the device; read the old messages on a new one.
import { Person, assert, byPassword, CryptoEvent, decodeRecoveryKey, eventually, scenario } from "./people.mjs";

await scenario(async () => {
    const alice = await Person.register("alice");
    const bob = await Person.register("bob");
    const phone = await alice.logIn("Alice's phone");
    const bobs = await bob.logIn("Bob's phone");

    await phone.crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys: byPassword(alice) });
    const recovery = await phone.crypto.createRecoveryKeyFromPassphrase();
    await phone.crypto.bootstrapSecretStorage({
        createSecretStorageKey: async () => recovery,
        setupNewSecretStorage: true,
        setupNewKeyBackup: true,
    });
    assert.ok(await phone.crypto.isCrossSigningReady(), "cross-signing is ready");
    assert.ok(await phone.crypto.isSecretStorageReady(), "secret storage is ready");
    await phone.seesSigned(phone);
    await phone.crypto.checkKeyBackupAndEnable();
    const version = await phone.crypto.getActiveSessionBackupVersion();
    assert.ok(version, "a backup is active");

    const roomId = await phone.createEncryptedRoom("Lunch", bob);
    await bobs.join(roomId);
    await phone.sees(bob, "join", roomId);
    const mine = await phone.say(roomId, "Soup?");
    await bobs.hears(roomId, mine);
    const theirs = await bobs.say(roomId, "Soup!");
    await phone.hears(roomId, theirs);
    // Two sessions are to be saved: the one Alice speaks in, and the one Bob does.
    // The library saves after a random delay of up to ten seconds.
    // It also remembers what the server said of the backup, so the server is asked directly.
    const backup = () => phone.client.http.authedRequest("GET", "/room_keys/version", undefined, undefined, { prefix: "/_matrix/client/v3" });
    await eventually("both keys in the backup", phone.client, [CryptoEvent.KeyBackupSessionsRemaining], async () => (await backup()).count >= 2, 45_000);
    assert.equal((await backup()).version, version);
    await phone.client.logout(true);

    const tablet = await alice.logIn("Alice's tablet");
    await tablet.knowsEncryption(roomId);
    const before = tablet.client.getRoom(roomId).findEventById(mine);
    assert.ok(before, "the message is in the new device's timeline");

    assert.ok(await tablet.crypto.userHasCrossSigningKeys(alice.userId, true), "the new device knows of cross-signing");
    tablet.secretKey = decodeRecoveryKey(recovery.encodedPrivateKey);
    await tablet.crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys: byPassword(alice) });
    await tablet.crypto.loadSessionBackupPrivateKeyFromSecretStorage();
    const trusted = await tablet.crypto.checkKeyBackupAndEnable();
    assert.ok(trusted?.trustInfo.trusted || trusted?.trustInfo.matchesDecryptionKey, "the backup is trusted");
    const restored = await tablet.crypto.restoreKeyBackup();
    assert.ok(restored.imported >= 2, `imported ${restored.imported} of ${restored.total}`);
    assert.equal(await tablet.hears(roomId, mine), "Soup?");
    assert.equal(await tablet.hears(roomId, theirs), "Soup!");

    await tablet.seesSigned(tablet);
    await bobs.seesSigned(tablet);
    return { version, imported: restored.imported };
});
