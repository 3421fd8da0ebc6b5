// Log in on the page of the server, by keyboard, at the second attempt; what the address says of the device is used.
import { withBrowser } from "./browser.mjs";
import { Person, assert, baseUrl, scenario } from "./people.mjs";

await scenario(() =>
    withBrowser(async (context) => {
        const alice = await Person.register("alice");
        const page = await context.newPage();
        await page.addInitScript(() => {
            window.matrixLogin = { onLogin: (response) => (window.loggedIn = response) };
        });
        await page.goto(`${baseUrl}/_matrix/static/client/login/?device_id=TABLET&initial_device_display_name=Alice%27s%20tablet&refresh_token=true`);
        assert.equal(await page.title(), "Log in");
        await page.locator("input:focus").waitFor(); // The first field has the focus by itself.
        await page.keyboard.type(alice.username);
        await page.keyboard.press("Tab");
        await page.keyboard.type("a guess");
        await page.keyboard.press("Enter");
        await page.getByRole("alert").getByText("The user name or the password is wrong.").waitFor();
        assert.equal(await page.evaluate(() => window.loggedIn), undefined);

        await page.getByLabel("Password").fill(alice.password);
        await page.getByRole("button", { name: "Log in" }).click();
        await page.getByRole("status").getByText("You are logged in.").waitFor();
        const told = await page.evaluate(() => window.loggedIn);
        assert.equal(told.user_id, alice.userId);
        assert.equal(told.device_id, "TABLET");
        assert.ok(told.access_token && told.refresh_token);
        const headers = { Authorization: `Bearer ${told.access_token}` };
        const device = await (await fetch(`${baseUrl}/_matrix/client/v3/devices/TABLET`, { headers })).json();
        assert.equal(device.display_name, "Alice's tablet");
        return { userId: told.user_id };
    }),
);
