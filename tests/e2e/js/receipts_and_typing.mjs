// Bob types; Alice sees it. Bob reads; Alice sees how far, and Bob's unread count falls to nothing.
import { Person, assert, eventually, scenario, sdk } from "./people.mjs";

await scenario(async () => {
    const alice = await Person.register("alice");
    const bob = await Person.registerElsewhere("bob");
    const phone = await alice.logIn("Alice's phone");
    const bobs = await bob.logIn("Bob's phone");
    const roomId = await phone.createEncryptedRoom("Lunch", bob);
    await bobs.join(roomId);
    await phone.sees(bob, "join", roomId);

    const typing = (expected) =>
        eventually(`typing ${expected}`, phone.client, [sdk.RoomMemberEvent.Typing, sdk.ClientEvent.Sync], () => phone.client.getRoom(roomId).getMember(bob.userId).typing === expected);
    await bobs.client.sendTyping(roomId, true, 30_000);
    await typing(true);
    await bobs.client.sendTyping(roomId, false, 0);
    await typing(false);

    const eventId = await phone.say(roomId, "Soup?");
    const message = await bobs.receive(roomId, eventId);
    const room = bobs.client.getRoom(roomId);
    const counted = [sdk.RoomEvent.UnreadNotifications, sdk.RoomEvent.Timeline, sdk.ClientEvent.Sync, sdk.MatrixEventEvent.Decrypted];
    await eventually("an unread message", bobs.client, counted, () => room.getUnreadNotificationCount("total") === 1);

    await bobs.client.sendReadReceipt(message);
    await eventually("the receipt", phone.client, [sdk.RoomEvent.Receipt, sdk.ClientEvent.Sync], () => {
        const seen = phone.client.getRoom(roomId);
        return seen.getEventReadUpTo(bob.userId, true) === eventId && seen.getUsersReadUpTo(seen.findEventById(eventId)).includes(bob.userId);
    });
    await eventually("nothing unread", bobs.client, [...counted, sdk.RoomEvent.Receipt], () => room.getUnreadNotificationCount("total") === 0);

    await bobs.client.setRoomReadMarkers(roomId, eventId);
    await eventually("the marker", bobs.client, [sdk.RoomEvent.AccountData, sdk.ClientEvent.Sync], () => room.getAccountData("m.fully_read")?.getContent().event_id === eventId);
    assert.equal(room.getUnreadNotificationCount("total"), 0);
    return { eventId };
});
