// Confirm with the password on pages of the server: in a window that a web app opens, and in the browser inside an app.
import { inPopUp, request, stagePage, withBrowser } from "./browser.mjs";
import { Person, assert, baseUrl, scenario } from "./people.mjs";

const PASSWORD = "m.login.password";

async function logIn(person, deviceId) {
    const identifier = { type: "m.id.user", user: person.username };
    const answer = await request("POST", "/login", { type: PASSWORD, identifier, password: person.password, device_id: deviceId });
    return answer.body.access_token;
}

await scenario(() =>
    withBrowser(async (context) => {
        const alice = await Person.register("alice");
        const token = await logIn(alice, "LAPTOP");
        const begin = async (deviceId) => {
            await logIn(alice, deviceId);
            const asked = await request("DELETE", `/devices/${deviceId}`, {}, token);
            assert.equal(asked.status, 401);
            return asked.body.session;
        };
        const finish = (deviceId, session) => request("DELETE", `/devices/${deviceId}`, { auth: { session } }, token);

        const first = await begin("PHONE");
        const told = await inPopUp(context, stagePage(PASSWORD, first), async (page) => {
            await page.getByText("delete the device PHONE").waitFor();
            assert.equal(await page.getByLabel("Your account").inputValue(), alice.userId);
            await page.getByLabel("Your password").fill("a guess");
            await page.getByRole("button", { name: "Confirm" }).click();
            await page.getByRole("alert").getByText("The password is wrong.").waitFor();
            assert.equal((await finish("PHONE", first)).status, 401);
            await page.getByLabel("Your password").fill(alice.password);
            await page.keyboard.press("Enter");
        });
        assert.deepEqual(told, [baseUrl, "authDone"]);
        assert.equal((await finish("PHONE", first)).status, 200);

        const second = await begin("TABLET");
        const page = await context.newPage();
        await page.addInitScript(() => {
            window.onAuthDone = () => (window.isDone = true);
        });
        await page.goto(stagePage(PASSWORD, second));
        assert.equal(await page.evaluate(() => window.isDone), undefined);
        await page.getByLabel("Your password").fill(alice.password);
        await page.getByRole("button", { name: "Confirm" }).click();
        await page.waitForFunction(() => window.isDone);
        assert.equal((await finish("TABLET", second)).status, 200);

        await page.goto(stagePage(PASSWORD, second));
        await page.getByRole("alert").getByText("out of date").waitFor();
        return { userId: alice.userId };
    }),
);
