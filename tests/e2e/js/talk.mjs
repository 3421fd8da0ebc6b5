// An encrypted room, an invitation, a join, and messages both ways that every device of both people can read.
import { Person, assert, scenario } from "./people.mjs";

await scenario(async () => {
    const alice = await Person.register("alice");
    const bob = await Person.registerElsewhere("bob");
    const phone = await alice.logIn("Alice's phone");
    const laptop = await alice.logIn("Alice's laptop");
    const bobs = await bob.logIn("Bob's phone");

    const roomId = await phone.createEncryptedRoom("Lunch", bob);
    await bobs.join(roomId);
    await phone.sees(bob, "join", roomId);
    await laptop.knowsEncryption(roomId);
    assert.equal(bobs.client.getRoom(roomId).name, "Lunch");

    const question = await phone.say(roomId, "Soup?");
    assert.equal(await bobs.hears(roomId, question), "Soup?");
    assert.equal(await laptop.hears(roomId, question), "Soup?");

    const answer = await bobs.say(roomId, "Soup!");
    assert.equal(await phone.hears(roomId, answer), "Soup!");
    assert.equal(await laptop.hears(roomId, answer), "Soup!");

    const again = await laptop.say(roomId, "At noon.");
    assert.equal(await bobs.hears(roomId, again), "At noon.");
    assert.equal(await phone.hears(roomId, again), "At noon.");
    return { heard: 3 };
});
