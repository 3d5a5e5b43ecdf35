//! The live page of `examples/dashboard.rs` in headless Chromium: what it shows is what the agent says.
//!
//! Without Chromium and ChromeDriver there is nothing to test, unless `BROWSER=1` says that they are here.
//! `DASHBOARD_SCREENSHOT=FILE` waits for a minute of history, and leaves a picture of the page.

mod browser;
mod page;
mod told;

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::Duration;

use browser::Browser;
use futures_util::FutureExt;
use page::{Dashboard, eventually};
use serde_json::{Value, json};
use told::Told;

const DESK: (u32, u32) = (1280, 1240);
const PHONE: (u32, u32) = (390, 844);

/// What the page shows, read in one step.
const SHOWN: &str = r##"
    const text = id => document.getElementById(id).textContent;
    const pools = {};
    for (const pool of document.querySelectorAll(".pool")) {
        const one = pools[pool.dataset.key] = { at: Number(pool.dataset.at), name: pool.querySelector(".name").textContent };
        for (const it of pool.querySelectorAll(".numbers [data-is]")) one[it.dataset.is] = it.textContent;
        one.limit = pool.querySelector("[data-is=limit]")?.textContent ?? null;
        one.times = [...pool.querySelectorAll("[data-is=time]")].map(it => it.textContent).join(", ");
    }
    const closes = {};
    for (const row of document.querySelectorAll("#causes tr[data-reason]"))
        closes[row.dataset.reason] = {
            words: row.firstChild.textContent, count: row.lastChild.textContent, kind: row.querySelector(".bar div").className,
        };
    const all = {};
    for (const id of ["open", "active", "idle", "streams", "queued", "queue-time", "longest-queue-time", "rate", "reuse", "errors",
        "all-errors", "timeouts", "all-timeouts", "started", "answered", "completed", "failed", "created", "closed"]) all[id] = text(id);
    const close = document.getElementById("close-idle");
    return {
        at: Number(document.querySelector("main").dataset.at), all, pools, closes, live: text("live"),
        closeIdle: { text: close.textContent, disabled: close.disabled },
        chosen: [...document.querySelectorAll(".pool[aria-pressed=true]")].map(it => it.dataset.key),
    };
"##;

/// The texts that can hardly be read: their contrast, where it is below that of WCAG AA. And how many were looked at.
const CONTRAST: &str = r##"
    const parse = text => text.match(/[\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
        .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((all, c, i) => all + c * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = node => {
        for (; node; node = node.parentElement) {
            const color = parse(getComputedStyle(node).backgroundColor);
            if (color.length === 3 || color[3] > 0) return color;
        }
        return [255, 255, 255];
    };
    let seen = 0;
    const poor = [];
    for (const node of document.querySelectorAll("main *")) {
        const text = [...node.childNodes].filter(it => it.nodeType === 3).map(it => it.data.trim()).join("");
        if (!text) continue;
        seen++;
        const style = getComputedStyle(node);
        const [a, b] = [light(parse(node.namespaceURI.includes("svg") ? style.fill : style.color)), light(behind(node))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) poor.push(`${text}: ${ratio.toFixed(2)}`);
    }
    return { seen, poor, ground: light(behind(document.body)) };
"##;

#[tokio::test]
async fn the_page_shows_what_the_agent_says() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let dashboard = Dashboard::start().await;
    // Chromium outlives ChromeDriver, and has to go in any case.
    let outcome = AssertUnwindSafe(clicked_through(&browser, &dashboard))
        .catch_unwind()
        .await;
    browser.quit().await;
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
}

async fn clicked_through(browser: &Browser, dashboard: &Dashboard) {
    browser.resize(DESK).await;
    dashboard.has_beats(10).await;
    browser.goto(dashboard.url()).await;
    the_busiest_pool_is_chosen(browser, dashboard).await;
    numbers_are_what_was_told(browser, dashboard).await;
    pause_freezes_and_goes_on(browser, dashboard).await;
    a_pool_lists_its_connections(browser, dashboard).await;
    streams_are_listed(browser).await;
    a_pointer_shows_its_moment(browser, dashboard).await;
    a_minute_is_a_minute(browser, dashboard.url()).await;
    names_are_text_and_the_busiest_are_drawn(browser).await;
    close_idle_says_what_it_closes(browser, dashboard).await;
    if let Some(file) = std::env::var_os("DASHBOARD_SCREENSHOT") {
        dashboard.has_beats(130).await;
        std::fs::write(file, browser.screenshot().await).expect("the picture is written");
    }
    light_and_dark_can_be_read(browser).await;
    nothing_is_wider_than_a_phone(browser).await;
    let complaints = browser.console().await;
    assert!(complaints.is_empty(), "{complaints:#?}");
}

async fn the_busiest_pool_is_chosen(browser: &Browser, dashboard: &Dashboard) {
    eventually("a pool is chosen", async || {
        browser.run(SHOWN).await["chosen"] != json!([])
    })
    .await;
    let shown = browser.run(SHOWN).await;
    let chosen = shown["chosen"].as_array().expect("pools");
    assert_eq!(chosen.len(), 1, "{chosen:?}");
    // It was chosen at this beat, or at one of those before it: the page had been open for no longer.
    let at = shown["at"].as_u64().expect("a time");
    let busiest = dashboard.told_before(at).await.busiest_at_the_end(6);
    assert!(busiest.contains(&chosen[0]), "{chosen:?}: {busiest:?}");
}

/// Every number, several times: each is of the one beat that was shown, or of the minute before it.
async fn numbers_are_what_was_told(browser: &Browser, dashboard: &Dashboard) {
    eventually("there is something of everything", async || {
        let shown = browser.run(SHOWN).await;
        let has = |id: &str| !["0", "–"].contains(&shown["all"][id].as_str().expect(id));
        ["queue-time", "errors", "timeouts", "closed"]
            .into_iter()
            .all(has)
    })
    .await;
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let shown = browser.run(SHOWN).await;
        if seen.last() == Some(&shown) {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        }
        agrees(&shown, dashboard).await;
        seen.push(shown);
    }
    assert!(seen[0]["at"].as_u64() < seen[3]["at"].as_u64());
}

async fn agrees(shown: &Value, dashboard: &Dashboard) {
    let at = shown["at"].as_u64().expect("a time");
    let told = dashboard.told_before(at).await;
    let of = |name: &str| &shown[name];
    assert_eq!(*of("all"), told.all());
    assert_eq!(*of("closes"), told.closes());
    assert_eq!(*of("closeIdle"), told.close_idle());
    let pools = of("pools").as_object().expect("pools");
    assert_eq!(pools.keys().cloned().collect::<Vec<_>>(), told.pools());
    for (key, pool) in pools {
        assert_eq!(*pool, told.pool(key), "{key}");
    }
}

async fn pause_freezes_and_goes_on(browser: &Browser, dashboard: &Dashboard) {
    browser.click("#pause").await;
    let shown = browser.run(SHOWN).await;
    assert_eq!(shown["live"], "paused");
    assert_eq!(browser.text("#pause").await, "Go on");
    dashboard.has_beats(dashboard.beats() + 3).await;
    assert_eq!(browser.run(SHOWN).await, shown, "the page stands still");
    agrees(&shown, dashboard).await;

    browser.click("#pause").await;
    eventually("the page goes on", async || {
        let now = browser.run(SHOWN).await;
        now["live"] == "live" && now["at"].as_u64() > shown["at"].as_u64()
    })
    .await;
    assert_eq!(browser.text("#pause").await, "Pause");
}

async fn a_pool_lists_its_connections(browser: &Browser, dashboard: &Dashboard) {
    const LISTED: &str = r##"
        const rows = [...document.querySelectorAll("#connections tr")].slice(1);
        return {
            title: document.querySelector("#connections h2").textContent,
            rows: rows.map(row => [...row.children].map(it => it.textContent)),
            chosen: [...document.querySelectorAll(".pool[aria-pressed=true]")].map(it => it.dataset.key),
        };
    "##;
    let chosen = browser.run(LISTED).await["chosen"][0].clone();
    let chosen = chosen.as_str().expect("a pool");
    let card = |key: &str| format!(".pool[data-key='{key}']");
    browser.click(&card(chosen)).await;
    eventually("the list closes", async || {
        let listed = browser.run(LISTED).await;
        listed["title"] == "Connections" && listed["chosen"] == json!([])
    })
    .await;

    let keys =
        browser.run("return [...document.querySelectorAll('.pool')].map(it => it.dataset.key)");
    let keys = keys.await;
    let key = keys[0].as_str().expect("a pool");
    browser.click(&card(key)).await;
    eventually("its connections are the agent's", async || {
        let listed = browser.run(LISTED).await;
        let rows = listed["rows"].as_array().expect("rows");
        let said = dashboard.connections(key).await;
        let ids: Vec<_> = said.iter().map(|it| format!("#{}", it["id"])).collect();
        for row in rows {
            assert!(
                ["active", "idle", "connecting", "draining"]
                    .contains(&row[1].as_str().expect("a state")),
                "{row}"
            );
            assert!(
                row[2].as_str().is_some_and(|age| age.ends_with(" s")),
                "{row}"
            );
            assert!(
                ["–", "0 of 1", "1 of 1"].map(Value::from).contains(&row[4]),
                "{row}"
            );
        }
        // Between the list and the question some may have come or gone; a list that is the same is the agent's.
        listed["title"] == json!(format!("Connections of {}", told::short(key)))
            && listed["chosen"] == json!([key])
            && !rows.is_empty()
            && rows.len() == ids.len()
            && rows.iter().zip(&ids).all(|(row, id)| row[0] == json!(id))
    })
    .await;
}

/// How many streams of HTTP/2 each connection has, of how many.
async fn streams_are_listed(browser: &Browser) {
    const LISTED: &str = r##"
        const rows = [...document.querySelectorAll("#connections tr")].slice(1);
        return { title: document.querySelector("#connections h2").textContent, streams: rows.map(row => row.lastChild.textContent) };
    "##;
    browser.click(".pool[data-key^='shared.test:']").await;
    eventually("the list says how many streams are in use", async || {
        let listed = browser.run(LISTED).await;
        let title = listed["title"].as_str().expect("a title");
        let all = listed["streams"].as_array().expect("rows");
        let mut in_use = all
            .iter()
            .filter_map(|it| it.as_str()?.strip_suffix(" of 4"));
        title.starts_with("Connections of shared.test")
            && in_use.any(|it| ["1", "2", "3", "4"].contains(&it))
    })
    .await;
}

/// Over one chart, the numbers of all pools are those of the moment under the pointer.
async fn a_pointer_shows_its_moment(browser: &Browser, dashboard: &Dashboard) {
    const WHERE: &str = r##"
        const chart = document.querySelectorAll(".pool svg")[1];
        const ends = [...chart.querySelectorAll("path")].map(it => it.getBoundingClientRect());
        const box = chart.getBoundingClientRect();
        return [ends[0].right - (ends[0].right - box.left) * 0.1, box.top + box.height / 2];
    "##;
    browser.click("#pause").await;
    let place = browser.run(WHERE).await;
    let place = [0, 1].map(|it| place[it].as_f64().expect("a place"));
    browser.point(place).await;
    let shown = browser.run(SHOWN).await;
    let at = shown["pools"].as_object().expect("pools").values();
    let mut at = at.map(|pool| pool["at"].as_u64().expect("a time"));
    let moment = at.next().expect("pools");
    assert!(at.all(|it| it == moment), "one moment in all pools");
    let ago = shown["at"].as_u64().expect("a time") - moment;
    // A tenth of the chart, with its margin.
    assert!(
        (5_000..=7_500).contains(&ago),
        "{ago} ms before the last beat"
    );
    let told = dashboard.told_before(moment).await;
    for (key, pool) in shown["pools"].as_object().expect("pools") {
        assert_eq!(*pool, told.pool_at_the_end(key), "{key}");
    }

    browser.point([1.0, 1.0]).await;
    let shown = browser.run(SHOWN).await;
    agrees(&shown, dashboard).await;
    browser.click("#pause").await;
}

/// Of what is older, nothing is shown; nor is a limit where there is none.
async fn a_minute_is_a_minute(browser: &Browser, url: &str) {
    browser.click("#pause").await;
    let last = browser.run("return beats[beats.length - 1]").await;
    let at = last["at"].as_u64().expect("a time");
    // A hundred seconds in which something happened at every beat.
    let beats = (0..200).map(|place| {
        let mut beat = last.clone();
        beat["at"] = json!(at - (199 - place) * 500);
        beat["limit"] = Value::Null;
        for (counter, step) in [("answeredRequestCount", 70), ("reusedSocketCount", 9), ("createSocketCount", 1)] {
            beat["status"][counter] = json!(1_000_000 + place * step);
        }
        beat["pools"] = json!({ "host.test:80:": {
            "errors": 1, "timeouts": 2, "queued": 4, "queueTime": 50.0 * place as f64, "longestQueueTime": 50_000.0 - 50.0 * place as f64,
        } });
        beat
    });
    let beats = json!(beats.collect::<Vec<_>>());
    browser
        .run(&format!("beats = {beats}; heard(); show();"))
        .await;
    let shown = browser.run(SHOWN).await;
    let told =
        Told::of_minute(beats.as_array().expect("a list"), at).expect("the last beat is there");
    assert_eq!(shown["all"], told.all());
    assert_eq!(shown["all"]["errors"], "120");
    assert_eq!(shown["all"]["rate"], "140");
    for (key, pool) in shown["pools"].as_object().expect("pools") {
        assert_eq!(*pool, told.pool(key), "{key}");
        assert_eq!(pool["limit"], Value::Null);
    }
    // With what it was told itself.
    browser.goto(url).await;
    eventually("the page is live again", async || {
        browser.run(SHOWN).await["chosen"] != json!([])
    })
    .await;
}

/// Names of pools may be strangers'.
async fn names_are_text_and_the_busiest_are_drawn(browser: &Browser) {
    const MANY: &str = r##"
        const before = beats, sockets = { "<img src=x>": 99 };
        for (let pool = 0; pool < 30; pool++) sockets[`host${pool}.test:80:`] = pool;
        beats = beats.map(beat => ({ ...beat, status: { ...beat.status, sockets, freeSockets: {}, requests: {} } }));
        show();
        const cards = [...document.querySelectorAll(".pool")].map(it => it.querySelector(".name").textContent);
        const seen = { cards: cards.sort(), images: document.images.length, more: document.getElementById("more").textContent };
        beats = before;
        show();
        return { ...seen, hidden: document.getElementById("more").hidden };
    "##;
    let seen = browser.run(MANY).await;
    let mut cards: Vec<_> = (7..30).map(|it| format!("host{it}.test:80")).collect();
    cards.push("<img src=x>".to_owned());
    cards.sort();
    assert_eq!(seen["cards"], json!(cards));
    assert_eq!(seen["images"], 0);
    let more = seen["more"].as_str().expect("a text");
    assert!(more.starts_with("The 24 busiest of 3"), "{more}");
    assert_eq!(seen["hidden"], true, "the pools of the example are few");
}

async fn close_idle_says_what_it_closes(browser: &Browser, dashboard: &Dashboard) {
    let before = browser.run(SHOWN).await;
    assert_eq!(before["closes"]["shutdown"], Value::Null);
    // There may be nothing idle in this very moment.
    eventually("what was idle is closed", async || {
        browser.click("#close-idle").await;
        let shown = browser.run(SHOWN).await;
        shown["closes"]["shutdown"] != Value::Null
    })
    .await;
    agrees(&browser.run(SHOWN).await, dashboard).await;
}

async fn light_and_dark_can_be_read(browser: &Browser) {
    for (scheme, is_dark) in [("light", false), ("dark", true)] {
        browser.prefers(scheme).await;
        let look = browser.run(CONTRAST).await;
        assert!(look["seen"].as_u64() > Some(30), "{look}");
        assert_eq!(look["poor"], json!([]), "{scheme}: {look:#}");
        let ground = look["ground"].as_f64().expect("a luminance");
        assert_eq!(ground < 0.1, is_dark, "{scheme}: {ground}");
    }
    browser.prefers("light").await;
}

async fn nothing_is_wider_than_a_phone(browser: &Browser) {
    const WIDTHS: &str = "return [document.documentElement.scrollWidth, innerWidth]";
    for (width, height) in [PHONE, (320, 568), DESK] {
        browser.resize((width, height)).await;
        let widths = browser.run(WIDTHS).await;
        assert!(
            widths[0].as_u64() <= Some(u64::from(width)),
            "{width}: {widths}"
        );
        assert_eq!(widths[1], width);
    }
}
