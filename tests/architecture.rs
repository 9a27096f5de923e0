//! Who may import whom in the engine: the layer table, checked against every `crate::` path in `src/`.

use std::fs;
use std::path::{Path, PathBuf};

/// A module, what it may import, and whether it may get drivers from URLs besides.
struct Layer {
    module: &'static str,
    may_import: &'static [&'static str],
    connects: bool,
}

/// What `client` and `worker` may know of drivers: how to get one from a URL.
const CONNECT: [&str; 7] = [
    "driver::self",
    "driver::backend_url",
    "driver::connect",
    "driver::connect_backend",
    "driver::connect_broker",
    "driver::ConnectOptions",
    "driver::Threading",
];

const LAYERS: &[Layer] = &[
    Layer { module: "clock", may_import: &[], connects: false },
    Layer { module: "backoff", may_import: &[], connects: false },
    Layer { module: "url", may_import: &[], connects: false },
    Layer { module: "numbers", may_import: &[], connects: false },
    Layer { module: "protocol", may_import: &[], connects: false },
    Layer { module: "report", may_import: &[], connects: false },
    Layer { module: "keys", may_import: &[], connects: false },
    Layer { module: "limits", may_import: &[], connects: false },
    Layer {
        module: "broker",
        may_import: &["keys", "limits", "protocol", "report", "url", "backoff", "clock"],
        connects: false,
    },
    Layer {
        module: "backend",
        may_import: &["keys", "limits", "protocol", "report", "url", "backoff", "clock"],
        connects: false,
    },
    Layer {
        module: "driver",
        may_import: &[
            "broker", "backend", "keys", "limits", "protocol", "report", "url", "backoff", "clock", "numbers",
        ],
        connects: false,
    },
    Layer {
        module: "client",
        may_import: &["broker", "backend", "keys", "protocol", "report", "url", "backoff", "clock"],
        connects: true,
    },
    Layer {
        module: "worker",
        may_import: &[
            "driver::backend_url",
            "driver::connect",
            "client",
            "broker",
            "backend",
            "keys",
            "limits",
            "protocol",
            "url",
            "backoff",
            "clock",
            "numbers",
        ],
        connects: true,
    },
    // Below `worker`, and stricter than it: the door to task code knows messages only.
    Layer { module: "worker/pool", may_import: &["protocol"], connects: false },
];

/// One `crate::...` path of a source file.
#[derive(Debug, PartialEq)]
struct Import {
    path: String,
    line: usize,
}

#[test]
fn every_module_imports_only_what_its_layer_may() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut broken = Vec::new();
    let mut seen = 0;

    for file in rust_files(&root) {
        let relative = file.strip_prefix(&root).expect("it was found under the root").to_owned();
        let Some(layer) = layer_of(&relative) else { continue };
        let source = fs::read_to_string(&file).expect("a source file is readable");
        for import in imports(&source) {
            seen += 1;
            if !allowed(layer, &import.path) {
                broken.push(format!(
                    "src/{}:{}: `{}` may not import `crate::{}`",
                    relative.display(),
                    import.line,
                    layer.module,
                    import.path
                ));
            }
        }
    }

    assert!(seen > 0, "no import was found at all: the scan is broken");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_module_of_the_engine_is_in_the_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in rust_files(&root) {
        let relative = file.strip_prefix(&root).expect("it was found under the root").to_owned();
        let name = relative.to_string_lossy().into_owned();
        // `error` joins every layer's error, and no layer may import it.
        assert!(
            layer_of(&relative).is_some() || name == "lib.rs" || name == "error.rs",
            "src/{name} is in no layer: add it to the table"
        );
    }
}

#[test]
fn the_scan_sees_plain_grouped_and_inline_paths_and_no_comments() {
    let source = "\
        //! [`crate::worker`] is prose\n\
        use crate::protocol::Message;\n\
        use crate::{\n\
            broker::{Broker, Consumer},\n\
            clock,\n\
        };\n\
        fn f() { crate::driver::connect::broker(); }\n\
        #[cfg(test)]\n\
        mod tests { use crate::driver::memory; }\n";

    let found: Vec<String> = imports(source).into_iter().map(|import| import.path).collect();

    assert_eq!(
        found,
        ["protocol::Message", "broker::Broker", "broker::Consumer", "clock", "driver::connect::broker"]
    );
}

#[test]
fn a_client_gets_drivers_by_url_and_never_by_name() {
    let client = LAYERS.iter().find(|layer| layer.module == "client").expect("it is in the table");

    assert!(allowed(client, "driver::connect::broker"));
    assert!(allowed(client, "driver::connect_broker"));
    assert!(!allowed(client, "driver::memory"));
    assert!(!allowed(client, "driver"));
    assert!(!allowed(client, "worker::pool"));
    assert!(allowed(client, "client::routing"));
}

fn allowed(layer: &Layer, path: &str) -> bool {
    let own = layer.module.replace('/', "::");
    let starts = |prefix: &str| path == prefix || path.starts_with(&format!("{prefix}::"));
    starts(&own)
        || layer.may_import.iter().any(|prefix| starts(prefix))
        || (layer.connects && CONNECT.iter().any(|prefix| starts(prefix)))
}

/// The strictest layer that holds the file.
fn layer_of(relative: &Path) -> Option<&'static Layer> {
    let path = relative.with_extension("");
    LAYERS.iter().filter(|layer| path.starts_with(layer.module)).max_by_key(|layer| layer.module.len())
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder is readable") {
        let path = entry.expect("the entry is readable").path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && path.file_name().is_some_and(|name| name != "tests.rs")
        {
            found.push(path);
        }
    }
    found
}

/// Every `crate::` path outside comments, up to the file's test module (which may use any driver).
fn imports(source: &str) -> Vec<Import> {
    let tested = source.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let code: Vec<&str> = tested.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let code = code.join("\n");
    let mut found = Vec::new();
    for (at, matched) in code.match_indices("crate::") {
        found.extend(found_at(&code, at, paths(&code[at + matched.len()..])));
    }
    // `use crate::driver` makes every driver reachable by a path that does not begin with `crate`.
    for (at, _) in code.match_indices("driver::") {
        if !code[..at].ends_with("crate::") && !code[..at].ends_with('{') {
            found.extend(found_at(&code, at, paths(&code[at..])));
        }
    }
    found
}

fn found_at(code: &str, at: usize, paths: Vec<String>) -> Vec<Import> {
    let line = 1 + code[..at].matches('\n').count();
    paths.into_iter().map(|path| Import { path, line }).collect()
}

/// `a::b` of `a::b;`, and `a::b`, `a::c::d` of `a::{b, c::{d}}`.
fn paths(rest: &str) -> Vec<String> {
    let named = rest.trim_start();
    let end = named.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(named.len());
    let (prefix, rest) = named.split_at(end);
    match rest.strip_prefix('{') {
        Some(group) => {
            members(group).into_iter().flat_map(paths).map(|path| format!("{prefix}{path}")).collect()
        }
        None if prefix.is_empty() => Vec::new(),
        None => vec![prefix.trim_end_matches("::").to_owned()],
    }
}

/// The members of a group, up to its closing brace.
fn members(group: &str) -> Vec<&str> {
    let (mut found, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                found.push(&group[start..at]);
                start = at + 1;
                if character == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    found
}
