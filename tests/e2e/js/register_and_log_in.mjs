// Register; log in on two devices; see both; log one out; the other goes on.
import { Person, assert, baseUrl, scenario, sdk } from "./people.mjs";

await scenario(async () => {
    const alice = await Person.register("alice");
    const phone = await alice.logIn("Alice's phone");
    const laptop = await alice.logIn("Alice's laptop");
    assert.notEqual(phone.deviceId, laptop.deviceId);

    const { devices } = await laptop.client.getDevices();
    assert.deepEqual(devices.map((device) => device.display_name).sort(), ["Alice's laptop", "Alice's phone"]);
    assert.equal((await phone.client.whoami()).device_id, phone.deviceId);

    const token = phone.client.getAccessToken();
    await phone.client.logout(true);
    const stale = sdk.createClient({ baseUrl, accessToken: token, userId: alice.userId });
    await assert.rejects(stale.whoami(), (error) => error.httpStatus === 401 && error.errcode === "M_UNKNOWN_TOKEN");
    assert.equal((await laptop.client.whoami()).device_id, laptop.deviceId);
    assert.equal((await laptop.client.getDevices()).devices.length, 1);

    const wrong = sdk.createClient({ baseUrl }).loginRequest({
        type: "m.login.password",
        identifier: { type: "m.id.user", user: alice.username },
        password: "not this",
    });
    await assert.rejects(wrong, (error) => error.httpStatus === 403 && error.errcode === "M_FORBIDDEN");
    return { userId: alice.userId };
});
