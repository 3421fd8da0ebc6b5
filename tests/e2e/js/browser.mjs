// A browser, and in it an app that sends people to pages of the server.
import { chromium } from "playwright-core";
import { assert, baseUrl } from "./people.mjs";

const executablePath = process.argv[3];
const APP = "http://app.example/";
const PATIENCE_MS = 20_000;

/** Play with a browser that is closed afterwards. The pages must do without anything that their own policy forbids. */
export async function withBrowser(play) {
    const browser = await chromium.launch({ executablePath });
    const forbidden = [];
    try {
        const context = await browser.newContext();
        context.setDefaultTimeout(PATIENCE_MS);
        context.on("console", (message) => {
            const text = message.text();
            if (/Content.Security.Policy/i.test(text)) forbidden.push(text);
        });
        await context.route(`${APP}**`, (route) => route.fulfill({ contentType: "text/html", body: "<!DOCTYPE html><title>App</title>" }));
        const result = await play(context);
        assert.deepEqual(forbidden, []);
        return result;
    } finally {
        await browser.close();
    }
}

/** What the app is told of when `act` has been done on the page that it opened in another window. */
export async function inPopUp(context, url, act) {
    const app = await context.newPage();
    await app.goto(APP);
    const [page] = await Promise.all([
        app.waitForEvent("popup"),
        app.evaluate((address) => {
            window.told = new Promise((resolve) => addEventListener("message", (event) => resolve([event.origin, event.data])));
            window.open(address);
        }, url),
    ]);
    await act(page);
    return await app.evaluate(() => window.told);
}

/** The address of the page for a stage. */
export function stagePage(stage, session) {
    return `${baseUrl}/_matrix/client/v3/auth/${stage}/fallback/web?session=${encodeURIComponent(session)}`;
}

/** Status and body of a request to the server, made by the app. */
export async function request(method, path, body, token) {
    const headers = { "Content-Type": "application/json", ...(token && { Authorization: `Bearer ${token}` }) };
    const answer = await fetch(`${baseUrl}/_matrix/client/v3${path}`, { method, headers, body: JSON.stringify(body) });
    return { status: answer.status, body: await answer.json() };
}
