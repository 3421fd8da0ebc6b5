// In an encrypted room: correct a message, react to it, take the reaction back, and remove the message.
import { Person, assert, eventually, scenario, sdk } from "./people.mjs";

await scenario(async () => {
    const alice = await Person.register("alice");
    const bob = await Person.registerElsewhere("bob");
    const phone = await alice.logIn("Alice's phone");
    const bobs = await bob.logIn("Bob's phone");
    const roomId = await phone.createEncryptedRoom("Lunch", bob);
    await bobs.join(roomId);
    await phone.sees(bob, "join", roomId);

    const eventId = await phone.say(roomId, "Suop?");
    assert.equal(await bobs.hears(roomId, eventId), "Suop?");

    await phone.say(roomId, "* Soup?", {
        "m.new_content": { msgtype: "m.text", body: "Soup?" },
        "m.relates_to": { rel_type: "m.replace", event_id: eventId },
    });
    const message = await bobs.receive(roomId, eventId);
    const anything = [sdk.RoomEvent.Timeline, sdk.MatrixEventEvent.Decrypted, sdk.MatrixEventEvent.Replaced, sdk.ClientEvent.Sync];
    await eventually("the correction", bobs.client, anything, () => message.getContent().body === "Soup?");

    const { event_id: reactionId } = await bobs.client.sendEvent(roomId, "m.reaction", {
        "m.relates_to": { rel_type: "m.annotation", event_id: eventId, key: "🍲" },
    });
    const reactions = (device) =>
        device.client.getRoom(roomId).relations.getChildEventsForEvent(eventId, "m.annotation", "m.reaction")?.getSortedAnnotationsByKey() ?? [];
    const reacted = (device, count) =>
        eventually(`${count} reactions`, device.client, [...anything, sdk.RoomEvent.Redaction], () => {
            const sets = reactions(device);
            return (sets.find(([key]) => key === "🍲")?.[1].size ?? 0) === count;
        });
    await reacted(phone, 1);

    const listed = await phone.client.relations(roomId, eventId, "m.annotation", "m.reaction");
    assert.deepEqual(listed.events.map((event) => event.getId()), [reactionId]);

    await bobs.client.redactEvent(roomId, reactionId);
    await reacted(phone, 0);

    await phone.client.redactEvent(roomId, eventId, undefined, { reason: "Not hungry." });
    await eventually("the removal", bobs.client, [...anything, sdk.RoomEvent.Redaction], () => message.isRedacted());
    assert.deepEqual(message.getContent(), {});
    const stored = await bobs.client.fetchRoomEvent(roomId, eventId);
    assert.deepEqual(stored.content, {});
    assert.equal(stored.unsigned.redacted_because.content.reason, "Not hungry.");
    return { reactionId };
});
