//! A real browser without a screen: Chromium, which is told what to do through a pipe, and has a
//! network of its own with nobody in it.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use crate::Impossible;
use crate::program::BOUND;

/// What keeps a browser from asking anybody for anything, were there anybody.
const QUIET: &[&str] = &[
    "--no-sandbox",
    "--headless=new",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-domain-reliability",
    "--disable-sync",
    "--no-first-run",
    "--no-pings",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--remote-debugging-pipe",
];

/// The pipe is expected at descriptors 3 and 4.
const PIPED: &str = r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >&2"#;

/// A browser with one page.
pub(crate) struct Browser {
    child: Child,
    orders: ChildStdin,
    answers: Receiver<Value>,
    asked: u64,
    session: Option<String>,
    /// What it told by itself since the page was opened.
    told: Vec<Value>,
    profile: TempDir,
}

impl Browser {
    /// Starts one.
    ///
    /// # Errors
    /// If this machine has none, or no network can be made for it.
    pub(crate) fn start() -> Result<Self, Impossible> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        if !std::env::split_paths(&path).any(|folder| folder.join("chromium").is_file()) {
            return Err(Impossible("there is no `chromium` on PATH; Debian has a package of it".to_owned()));
        }
        // Whatever it starts ends with the first process of its namespace.
        let alone = || {
            let mut command = Command::new("unshare");
            command.args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
            // Others are allowed the rest by a namespace for users only.
            if !is_root() {
                command.args(["--user", "--map-root-user"]);
            }
            command
        };
        match alone().arg("true").stderr(Stdio::null()).status() {
            Ok(status) if status.success() => {}
            Ok(status) => {
                return Err(Impossible(format!("no network can be made for the browser: unshare: {status}")));
            }
            Err(error) => {
                return Err(Impossible(format!("no network can be made for the browser: unshare: {error}")));
            }
        }
        let profile = tempdir().expect("a folder can be made");
        let said = File::create(profile.path().join("said")).expect("a file can be made");
        let mut command = alone();
        command.args(["sh", "-c", PIPED, "chromium"]).args(QUIET);
        command.arg(format!("--user-data-dir={}", profile.path().join("profile").display()));
        command.arg("about:blank").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(said);
        let mut child = command.spawn().expect("the browser starts");
        let (orders, output) = child.stdin.take().zip(child.stdout.take()).expect("both are piped");
        let (answer, answers) = channel();
        std::thread::spawn(move || {
            for message in BufReader::new(output).split(0).map_while(Result::ok) {
                let message = serde_json::from_slice(&message).expect("the browser speaks JSON");
                if answer.send(message).is_err() {
                    break;
                }
            }
        });
        let (asked, session, told) = (0, None, Vec::new());
        let mut browser = Self { child, orders, answers, asked, session, told, profile };
        let targets = browser.call("Target.getTargets", &json!({}));
        let is_page = |target: &&Value| target["type"] == "page";
        let page = targets["targetInfos"].as_array().into_iter().flatten().find(is_page).expect("a page");
        let attach = json!({"targetId": page["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", &attach);
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        Ok(browser)
    }

    /// Opens a file on a screen so many pixels wide.
    pub(crate) fn open(&mut self, file: &Path, width: u32, scheme: &str) {
        let screen = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", &screen);
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", &media);
        self.told.clear();
        let opened = self.call("Page.navigate", &json!({"url": format!("file://{}", file.display())}));
        assert!(opened["errorText"].is_null(), "{}: {opened}", file.display());
        while !self.told.iter().any(|event| event["method"] == "Page.loadEventFired") {
            let event = self.hear("the page to be loaded");
            self.told.push(event);
        }
    }

    /// What an expression is on the page.
    pub(crate) fn evaluate(&mut self, expression: &str) -> Value {
        let ask = json!({"expression": expression, "returnByValue": true});
        let answer = self.call("Runtime.evaluate", &ask);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer:#}");
        answer["result"]["value"].clone()
    }

    /// Presses a key and lets it go.
    pub(crate) fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            other => panic!("the test knows no key `{other}`"),
        };
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { text } else { "" };
            self.call(
                "Input.dispatchKeyEvent",
                &json!({
                    "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text,
                }),
            );
        }
    }

    /// What the console has of the page: errors, warnings, and what scripts threw.
    pub(crate) fn complaints(&self) -> Vec<&Value> {
        let is_complaint = |event: &&Value| {
            ["Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"]
                .iter()
                .any(|method| event["method"] == *method)
        };
        self.told.iter().filter(is_complaint).collect()
    }

    /// Every address the page has asked for.
    pub(crate) fn requests(&self) -> Vec<&str> {
        let sent = self.told.iter().filter(|event| event["method"] == "Network.requestWillBeSent");
        sent.filter_map(|event| event["params"]["request"]["url"].as_str()).collect()
    }

    fn call(&mut self, method: &str, params: &Value) -> Value {
        self.asked += 1;
        let mut order = json!({"id": self.asked, "method": method, "params": params});
        if let Some(session) = &self.session {
            order["sessionId"] = json!(session);
        }
        let mut text = order.to_string().into_bytes();
        text.push(0);
        if let Err(error) = self.orders.write_all(&text) {
            panic!("{method}: {error}; the browser said: {}", self.said());
        }
        loop {
            let heard = self.hear(method);
            if heard["id"] == self.asked {
                assert!(heard["error"].is_null(), "{order}: {}", heard["error"]);
                return heard["result"].clone();
            }
            self.told.push(heard);
        }
    }

    fn hear(&self, waiting_for: &str) -> Value {
        self.answers.recv_timeout(BOUND).unwrap_or_else(|error| {
            panic!("{waiting_for} did not come within {BOUND:?} ({error}); the browser said: {}", self.said())
        })
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.profile.path().join("said")).unwrap_or_default()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended by itself, or be stuck; then it is killed.
        let close = json!({"id": self.asked + 1, "method": "Browser.close"}).to_string();
        let _ = self.orders.write_all(close.as_bytes()).and_then(|()| self.orders.write_all(&[0]));
        let deadline = Instant::now() + BOUND;
        // Its pipe is closed when all of it has ended.
        while self.answers.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok() {}
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// May this process make namespaces without making one for users first?
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}
