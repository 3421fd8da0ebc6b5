// People with devices, as the scenarios beside this file speak of them, and waiting for what happens to them.
// Nothing sleeps: every wait is for an event of the library, and has an upper bound.

// The library logs to the console; standard output is for the result alone.
for (const level of ["trace", "debug", "log", "info"]) console[level] = () => {};
console.warn = console.error;

// The library calls one function that came with Node.js 22.
Promise.withResolvers ??= function () {
    let resolve, reject;
    const promise = new this((...both) => ([resolve, reject] = both));
    return { promise, resolve, reject };
};

import assert from "node:assert/strict";
const sdk = await import("matrix-js-sdk");
const { CryptoEvent, decodeRecoveryKey } = await import("matrix-js-sdk/lib/crypto-api/index.js");
export { assert, sdk, CryptoEvent, decodeRecoveryKey };

export const baseUrl = process.argv[2];
const elsewhereUrl = process.env.ELSEWHERE_URL ?? baseUrl;
const PATIENCE_MS = 20_000;
const opened = [];

/** Run one scenario and print its outcome as one line of JSON. */
export async function scenario(play) {
    let outcome;
    try {
        outcome = { ok: true, result: (await play()) ?? null };
    } catch (error) {
        outcome = { ok: false, error: String(error?.stack ?? error), status: error?.httpStatus, errcode: error?.errcode };
    }
    for (const client of opened) client.stopClient();
    process.stdout.write(JSON.stringify(outcome) + "\n", () => process.exit(outcome.ok ? 0 : 1));
}

/** Resolve as soon as `find` (which may be async) gives something, tried now and at each of the events. */
export function eventually(what, emitter, events, find, patience = PATIENCE_MS) {
    return new Promise((resolve, reject) => {
        const finish = (settle, value) => {
            clearTimeout(timer);
            for (const event of events) emitter.off(event, attempt);
            settle(value);
        };
        const attempt = async () => {
            try {
                const found = await find();
                if (found) finish(resolve, found);
            } catch (error) {
                finish(reject, error);
            }
        };
        const timer = setTimeout(() => finish(reject, new Error(`waited ${patience} ms in vain: ${what}`)), patience);
        for (const event of events) emitter.on(event, attempt);
        void attempt();
    });
}

/** A name nobody else uses, so that scenarios can share a server. */
export function unique(name) {
    return `${name}-${Math.random().toString(36).slice(2, 10)}`;
}

/** Complete user-interactive authentication by password, as the client's dialogue would. */
export function byPassword(person) {
    return async (makeRequest) => {
        try {
            return await makeRequest(null);
        } catch (error) {
            if (error.httpStatus !== 401 || !error.data?.flows) throw error;
            assert.ok(
                error.data.flows.some((flow) => flow.stages.includes("m.login.password")),
                `no flow by password: ${JSON.stringify(error.data.flows)}`,
            );
            return await makeRequest({
                type: "m.login.password",
                identifier: { type: "m.id.user", user: person.userId },
                password: person.password,
                session: error.data.session,
            });
        }
    };
}

export class Person {
    /** Register a new account with the flow that needs nothing but a click. */
    static async register(name, url = baseUrl) {
        const person = new Person();
        person.baseUrl = url;
        person.username = unique(name);
        person.password = `secret of ${person.username}`;
        const request = { username: person.username, password: person.password, inhibit_login: true };
        const client = sdk.createClient({ baseUrl: url });
        try {
            await client.registerRequest(request);
            assert.fail("the first request of a registration was not asked for authentication");
        } catch (error) {
            if (error.httpStatus !== 401) throw error;
            assert.ok(error.data.flows.some((flow) => flow.stages.length === 1 && flow.stages[0] === "m.login.dummy"));
            const auth = { type: "m.login.dummy", session: error.data.session };
            const registered = await client.registerRequest({ ...request, auth });
            person.userId = registered.user_id;
        }
        return person;
    }

    /** The same, on the other server if there are two. */
    static registerElsewhere(name) {
        return Person.register(name, elsewhereUrl);
    }

    /** Log in on a new device, with encryption, and sync. */
    async logIn(deviceName) {
        const login = await sdk.createClient({ baseUrl: this.baseUrl }).loginRequest({
            type: "m.login.password",
            identifier: { type: "m.id.user", user: this.username },
            password: this.password,
            initial_device_display_name: deviceName,
        });
        assert.equal(login.user_id, this.userId);
        const device = new Device();
        device.person = this;
        device.secretKey = null;
        device.client = sdk.createClient({
            baseUrl: this.baseUrl,
            userId: login.user_id,
            deviceId: login.device_id,
            accessToken: login.access_token,
            cryptoCallbacks: {
                getSecretStorageKey: async ({ keys }) => (device.secretKey ? [Object.keys(keys)[0], device.secretKey] : null),
                cacheSecretStorageKey: (_id, _info, key) => void (device.secretKey = key),
            },
        });
        opened.push(device.client);
        await device.client.initRustCrypto({ useIndexedDB: false });
        await device.client.startClient({ initialSyncLimit: 20 });
        await eventually("the first sync", device.client, [sdk.ClientEvent.Sync], () => {
            const state = device.client.getSyncState();
            if (state === "ERROR") throw device.client.getSyncStateData()?.error ?? new Error("the first sync failed");
            return state === "PREPARED" || state === "SYNCING";
        });
        return device;
    }
}

export class Device {
    get crypto() {
        return this.client.getCrypto();
    }

    get userId() {
        return this.client.getUserId();
    }

    get deviceId() {
        return this.client.getDeviceId();
    }

    /** Make an encrypted room and invite people to it; resolves when this device knows that it is encrypted. */
    async createEncryptedRoom(name, ...people) {
        const { room_id: roomId } = await this.client.createRoom({
            name,
            preset: "private_chat",
            invite: people.map((person) => person.userId),
            initial_state: [{ type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } }],
        });
        await this.knowsEncryption(roomId);
        return roomId;
    }

    async knowsEncryption(roomId) {
        await eventually("a room known as encrypted", this.client, [sdk.ClientEvent.Sync, sdk.RoomStateEvent.Events], () =>
            this.client.getRoom(roomId)?.hasEncryptionStateEvent(),
        );
    }

    /** Wait to be a member of the room in this way ("invite", "join", "leave"). */
    async membershipIs(roomId, membership) {
        const events = [sdk.RoomEvent.MyMembership, sdk.ClientEvent.Room, sdk.ClientEvent.Sync];
        await eventually(`own membership ${membership}`, this.client, events, () => this.client.getRoom(roomId)?.getMyMembership() === membership);
    }

    /** Wait until this device sees another person as a member in this way. */
    async sees(person, membership, roomId) {
        const events = [sdk.RoomStateEvent.Members, sdk.RoomMemberEvent.Membership, sdk.ClientEvent.Sync];
        await eventually(`${person.userId} as ${membership}`, this.client, events, () => this.client.getRoom(roomId)?.getMember(person.userId)?.membership === membership);
    }

    /** Wait until this device knows that a device is signed by the person whose it is. */
    /** Wait until this device has the keys of another one. */
    async knows(device) {
        const events = [CryptoEvent.DevicesUpdated, CryptoEvent.KeysChanged, sdk.ClientEvent.Sync];
        await eventually(`${device.deviceId} known`, this.client, events, async () => {
            const known = await this.crypto.getUserDeviceInfo([device.userId], true);
            return known.get(device.userId)?.has(device.deviceId);
        });
    }

    async seesSigned(device) {
        const events = [CryptoEvent.DevicesUpdated, CryptoEvent.KeysChanged, CryptoEvent.UserTrustStatusChanged, sdk.ClientEvent.Sync];
        await eventually(`${device.deviceId} signed by its owner`, this.client, events, async () => {
            const status = await this.crypto.getDeviceVerificationStatus(device.userId, device.deviceId);
            return status?.signedByOwner;
        });
    }

    async join(roomId) {
        await this.membershipIs(roomId, "invite");
        await this.client.joinRoom(roomId);
        await this.membershipIs(roomId, "join");
        await this.knowsEncryption(roomId);
    }

    /** Send a text; the id of its event. */
    async say(roomId, body, more = {}) {
        const { event_id: eventId } = await this.client.sendMessage(roomId, { msgtype: "m.text", body, ...more });
        return eventId;
    }

    /** The event with this id, once it is here and is no longer encrypted. */
    async receive(roomId, eventId) {
        const events = [sdk.RoomEvent.Timeline, sdk.MatrixEventEvent.Decrypted, sdk.RoomEvent.LocalEchoUpdated, sdk.ClientEvent.Sync];
        const event = await eventually(`${eventId} decrypted`, this.client, events, () => {
            const found = this.client.getRoom(roomId)?.findEventById(eventId);
            return found && !found.isBeingDecrypted() && found.getClearContent !== undefined && isClear(found) && found;
        });
        return event;
    }

    /** The text of an event, once it is here and decrypted; it must have come encrypted. */
    async hears(roomId, eventId) {
        const event = await this.receive(roomId, eventId);
        assert.equal(event.getWireType(), "m.room.encrypted");
        return event.getContent().body;
    }
}

function isClear(event) {
    return !event.isEncrypted() || (event.getClearContent() !== null && !event.isDecryptionFailure());
}
