//! Who may import whom in the engine: the layer table, checked against every `crate::` path in `src/`.

use std::fs;
use std::path::{Path, PathBuf};

/// A module, what it may import, and what of that is narrowed to one path.
struct Layer {
    module: &'static str,
    may_import: &'static [&'static str],
}

const LAYERS: &[Layer] = &[
    Layer { module: "clock", may_import: &[] },
    Layer { module: "backoff", may_import: &[] },
    Layer { module: "url", may_import: &[] },
    Layer { module: "protocol", may_import: &[] },
    Layer { module: "broker", may_import: &["protocol", "url", "backoff", "clock"] },
    Layer { module: "backend", may_import: &["protocol", "url", "backoff", "clock"] },
    Layer { module: "driver", may_import: &["broker", "backend", "protocol", "url", "backoff", "clock"] },
    Layer {
        module: "client",
        may_import: &["driver::connect", "broker", "backend", "protocol", "url", "backoff", "clock"],
    },
    Layer {
        module: "worker",
        may_import: &[
            "driver::connect",
            "client",
            "broker",
            "backend",
            "protocol",
            "url",
            "backoff",
            "clock",
        ],
    },
    // Below `worker`, and stricter than it: the door to task code knows messages only.
    Layer { module: "worker/pool", may_import: &["protocol"] },
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

    assert_eq!(found, ["protocol::Message", "broker", "clock", "driver::connect::broker"]);
}

#[test]
fn a_narrowed_import_allows_that_path_alone() {
    let client = LAYERS.iter().find(|layer| layer.module == "client").expect("it is in the table");

    assert!(allowed(client, "driver::connect::broker"));
    assert!(!allowed(client, "driver::memory"));
    assert!(!allowed(client, "driver"));
    assert!(!allowed(client, "worker::pool"));
    assert!(allowed(client, "client::routing"));
}

fn allowed(layer: &Layer, path: &str) -> bool {
    let own = layer.module.replace('/', "::");
    let starts = |prefix: &str| path == prefix || path.starts_with(&format!("{prefix}::"));
    starts(&own) || layer.may_import.iter().any(|prefix| starts(prefix))
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
        let line = 1 + code[..at].matches('\n').count();
        for path in paths(&code[at + matched.len()..]) {
            found.push(Import { path, line });
        }
    }
    found
}

/// `a::b` of `a::b;`, and each member of a group `{a::b, c::{d, e}}` up to its own group.
fn paths(rest: &str) -> Vec<String> {
    let Some(group) = rest.strip_prefix('{') else { return vec![path(rest)] };
    let (mut found, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                found.push(path(&group[start..at]));
                start = at + 1;
                if character == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    found.retain(|path| !path.is_empty());
    found
}

fn path(text: &str) -> String {
    let name: String =
        text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':').collect();
    name.trim_end_matches("::").to_owned()
}
