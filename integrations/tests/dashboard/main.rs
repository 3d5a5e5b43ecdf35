//! The live page of `examples/dashboard.rs` in headless Chromium: what it shows is what the agent says.
//!
//! Without Chromium and ChromeDriver there is nothing to test, unless `BROWSER=1` says that they are here.
//! `DASHBOARD_SCREENSHOT=FILE` waits for a minute of history, and leaves a picture of the page.

mod browser;
mod page;

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::Duration;

use browser::Browser;
use futures_util::FutureExt;
use page::{Dashboard, eventually};
use serde_json::{Value, json};

const DESK: (u32, u32) = (1200, 620);
const PHONE: (u32, u32) = (390, 844);

/// What the page shows, read in one step.
const SHOWN: &str = r##"
    const number = id => Number(document.getElementById(id).textContent);
    const pools = {};
    for (const pool of document.querySelectorAll(".pool")) {
        const of = name => parseInt(pool.querySelector(`[data-is=${name}]`).textContent);
        pools[pool.dataset.key] = { active: of("active"), idle: of("idle"), pending: of("pending") };
    }
    const closes = {};
    for (const row of document.querySelectorAll("#causes tr[data-cause]"))
        closes[row.dataset.reason] = Number(row.lastChild.textContent);
    const all = {};
    for (const id of ["open", "pending", "requests", "created", "closed"]) all[id] = number(id);
    return { all, pools, closes, live: document.getElementById("live").textContent };
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
    browser.goto(dashboard.url()).await;
    numbers_are_the_status(browser, dashboard).await;
    pause_freezes_and_goes_on(browser, dashboard).await;
    a_pool_lists_its_connections(browser, dashboard).await;
    close_idle_closes(browser, dashboard).await;
    if let Some(file) = std::env::var_os("DASHBOARD_SCREENSHOT") {
        dashboard.has_beats(120).await;
        std::fs::write(file, browser.screenshot().await).expect("the picture is written");
    }
    light_and_dark_can_be_read(browser).await;
    nothing_is_wider_than_a_phone(browser).await;
    let complaints = browser.console().await;
    assert!(complaints.is_empty(), "{complaints:#?}");
}

/// Every number, several times: each is of the one beat that was shown.
async fn numbers_are_the_status(browser: &Browser, dashboard: &Dashboard) {
    eventually("there are pools, and closes", async || {
        let shown = browser.run(SHOWN).await;
        shown["pools"].as_object().is_some_and(|it| it.len() == 3) && shown["closes"] != json!({})
    })
    .await;
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let shown = browser.run(SHOWN).await;
        if seen.last() == Some(&shown) {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        }
        let status = dashboard.status_with(&shown["all"]["requests"]).await;
        agrees(&shown, &status);
        seen.push(shown);
    }
    assert!(seen[0]["all"]["requests"].as_u64() < seen[3]["all"]["requests"].as_u64());
}

fn agrees(shown: &Value, status: &Value) {
    let sum = |name: &str| {
        let map = status[name].as_object().expect("a map");
        map.values()
            .map(|it| it.as_u64().expect("a count"))
            .sum::<u64>()
    };
    let all = json!({
        "open": sum("freeSockets") + sum("sockets"),
        "pending": sum("requests"),
        "requests": status["requestCount"],
        "created": status["createSocketCount"],
        "closed": status["closeSocketCount"],
    });
    assert_eq!(shown["all"], all, "{status:#}");
    assert_eq!(shown["closes"], status["closes"]);
    let pools = shown["pools"].as_object().expect("pools");
    let of = |map: &str, key: &str| status[map].get(key).cloned().unwrap_or(json!(0));
    for (key, pool) in pools {
        let said = json!({
            "active": of("sockets", key),
            "idle": of("freeSockets", key),
            "pending": of("requests", key),
        });
        assert_eq!(*pool, said, "{key}: {status:#}");
    }
    for map in ["sockets", "freeSockets", "requests"] {
        for key in status[map].as_object().expect("a map").keys() {
            assert!(pools.contains_key(key), "{key} is not shown");
        }
    }
}

async fn pause_freezes_and_goes_on(browser: &Browser, dashboard: &Dashboard) {
    browser.click("#pause").await;
    let shown = browser.run(SHOWN).await;
    assert_eq!(shown["live"], "paused");
    assert_eq!(browser.text("#pause").await, "Go on");
    dashboard.has_beats(dashboard.beats() + 3).await;
    assert_eq!(browser.run(SHOWN).await, shown, "it stands still");
    agrees(
        &shown,
        &dashboard.status_with(&shown["all"]["requests"]).await,
    );

    browser.click("#pause").await;
    let requests = shown["all"]["requests"].as_u64();
    eventually("it goes on", async || {
        let now = browser.run(SHOWN).await;
        now["live"] == "live" && now["all"]["requests"].as_u64() > requests
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
            chosen: [...document.querySelectorAll(".pool[aria-expanded=true]")].map(it => it.dataset.key),
        };
    "##;
    let keys =
        browser.run("return [...document.querySelectorAll('.pool')].map(it => it.dataset.key)");
    let key = keys.await[0].as_str().expect("a pool").to_owned();
    let pool = format!(".pool[data-key='{key}']");
    browser.click(&pool).await;
    eventually("its connections are the agent's", async || {
        let listed = browser.run(LISTED).await;
        let rows = listed["rows"].as_array().expect("rows");
        let said = dashboard.connections(&key).await;
        let ids: Vec<_> = said.iter().map(|it| format!("#{}", it["id"])).collect();
        for row in rows {
            assert!(
                ["active", "idle", "connecting"].contains(&row[1].as_str().expect("a state")),
                "{row}"
            );
            assert!(
                row[2].as_str().is_some_and(|age| age.ends_with(" s")),
                "{row}"
            );
        }
        // Between the list and the question some may have come or gone; a list that is the same is the agent's.
        listed["title"] == json!(format!("Connections of {key}"))
            && listed["chosen"] == json!([key])
            && !rows.is_empty()
            && rows.len() == ids.len()
            && rows.iter().zip(&ids).all(|(row, id)| row[0] == json!(id))
    })
    .await;
    browser.click(&pool).await;
    eventually("the list closes", async || {
        let listed = browser.run(LISTED).await;
        listed["title"] == "Connections" && listed["chosen"] == json!([])
    })
    .await;
    // It stays open for the picture.
    browser.click(&pool).await;
}

async fn close_idle_closes(browser: &Browser, dashboard: &Dashboard) {
    let before = browser.run(SHOWN).await;
    assert_eq!(before["closes"]["shutdown"], Value::Null);
    // There may be nothing idle in this very moment.
    eventually("what was idle is closed", async || {
        browser.click("#close-idle").await;
        let shown = browser.run(SHOWN).await;
        shown["closes"]["shutdown"].as_u64() > Some(0)
    })
    .await;
    let shown = browser.run(SHOWN).await;
    agrees(
        &shown,
        &dashboard.status_with(&shown["all"]["requests"]).await,
    );
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
