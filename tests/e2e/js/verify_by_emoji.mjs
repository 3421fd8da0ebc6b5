// Alice compares emoji on her two devices; afterwards the new one is signed by her, and Bob sees that.
import { Person, assert, byPassword, CryptoEvent, eventually, scenario } from "./people.mjs";
const { VerificationPhase, VerificationRequestEvent, VerifierEvent } = await import("matrix-js-sdk/lib/crypto-api/verification.js");

await scenario(async () => {
    const alice = await Person.register("alice");
    const phone = await alice.logIn("Alice's phone");
    await phone.crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys: byPassword(alice) });
    const laptop = await alice.logIn("Alice's laptop");
    assert.ok(await laptop.crypto.userHasCrossSigningKeys(alice.userId, true));

    // The library drops a request of a device whose keys it does not have yet; a person needs longer than this anyway.
    await phone.knows(laptop);
    const incoming = new Promise((resolve) => phone.client.once(CryptoEvent.VerificationRequestReceived, resolve));
    const asked = await laptop.crypto.requestOwnUserVerification();
    const received = await within("the request on the phone", incoming);
    await received.accept();
    await eventually("the acceptance", asked, [VerificationRequestEvent.Change], () => asked.phase === VerificationPhase.Ready);

    const verifier = await asked.startVerification("m.sas.v1");
    await eventually("the start", received, [VerificationRequestEvent.Change], () => received.verifier);
    const shown = (which) => eventually("emoji", which, [VerifierEvent.ShowSas], () => which.getShowSasCallbacks());
    const finished = [verifier.verify(), received.verifier.verify()];
    const [left, right] = await Promise.all([shown(verifier), shown(received.verifier)]);
    assert.equal(left.sas.emoji.length, 7);
    assert.deepEqual(left.sas.emoji, right.sas.emoji);
    await Promise.all([left.confirm(), right.confirm()]);
    await within("both sides done", Promise.all(finished));

    await laptop.seesSigned(laptop);

    const bob = await Person.registerElsewhere("bob");
    const bobs = await bob.logIn("Bob's phone");
    const roomId = await phone.createEncryptedRoom("Lunch", bob);
    await bobs.join(roomId);
    await bobs.crypto.getUserDeviceInfo([alice.userId], true);
    await bobs.seesSigned(laptop);
    return { emoji: left.sas.emoji.map(([emoji]) => emoji) };
});

function within(what, promise, patience = 20_000) {
    let timer;
    const late = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error(`waited ${patience} ms in vain: ${what}`)), patience);
    });
    return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
