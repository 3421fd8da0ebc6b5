// Register with an app that knows no stage: accept the terms and give a token on pages of the server.
import { inPopUp, request, stagePage, withBrowser } from "./browser.mjs";
import { assert, baseUrl, scenario, unique } from "./people.mjs";

await scenario(() =>
    withBrowser(async (context) => {
        const username = unique("alice");
        const body = { username, password: `secret of ${username}` };
        const asked = await request("POST", "/register", body);
        assert.deepEqual(asked.body.flows, [{ stages: ["m.login.terms", "m.login.registration_token"] }]);
        const session = asked.body.session;

        const accepted = await inPopUp(context, stagePage("m.login.terms", session), async (page) => {
            assert.equal(await page.getByRole("link", { name: "terms of service" }).getAttribute("href"), "http://terms.example/");
            await page.getByRole("button", { name: "I accept them" }).click();
        });
        assert.deepEqual(accepted, [baseUrl, "authDone"]);
        const half = await request("POST", "/register", { ...body, auth: { session } });
        assert.deepEqual([half.status, half.body.completed], [401, ["m.login.terms"]]);

        const given = await inPopUp(context, stagePage("m.login.registration_token", session), async (page) => {
            await page.locator("input:focus").waitFor(); // The field has the focus by itself.
            await page.keyboard.type("a-guess");
            await page.keyboard.press("Enter");
            await page.getByRole("alert").waitFor();
            await page.getByLabel("The token that you were given").fill("let-me-in");
            await page.getByRole("button", { name: "Go on" }).click();
        });
        assert.deepEqual(given, [baseUrl, "authDone"]);
        const registered = await request("POST", "/register", { ...body, auth: { session } });
        assert.equal(registered.status, 200);
        return { userId: registered.body.user_id };
    }),
);
