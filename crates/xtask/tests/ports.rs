//! The ports are small: each file holds one trait at most, and no trait requires more than seven
//! methods.

use std::fs;
use std::path::Path;

use lexer::pieces;

#[path = "../src/lexer.rs"]
mod lexer;

/// The largest number of methods that a port may require. Methods with a default are not counted.
const REQUIRED_MAX: usize = 7;

/// A trait, and the methods that have no default.
#[derive(Debug, PartialEq, Eq)]
struct Port {
    name: String,
    required: Vec<String>,
}

fn ports(code: &str) -> Vec<Port> {
    let mut tokens = pieces(code);
    tokens.retain(|token| !token.is_comment());
    let mut found: Vec<Port> = Vec::new();
    let (mut depth, mut is_trait) = (0_usize, false);
    let mut method = None;
    for (index, token) in tokens.iter().enumerate() {
        let next = || tokens[index + 1].text.clone();
        match token.text.as_str() {
            "trait" if depth == 0 => {
                is_trait = true;
                found.push(Port {
                    name: next(),
                    required: Vec::new(),
                });
            }
            "fn" if depth == 1 && is_trait => method = Some(next()),
            ";" if depth == 1 => {
                if let (Some(name), Some(port)) = (method.take(), found.last_mut()) {
                    port.required.push(name);
                }
            }
            "{" | "(" | "[" => {
                // A body, which makes it a default.
                if token.text == "{" && depth == 1 {
                    method = None;
                }
                depth += 1;
            }
            "}" | ")" | "]" => {
                depth -= 1;
                is_trait &= depth > 0;
            }
            _ => {}
        }
    }
    found
}

#[test]
fn no_port_requires_more_than_seven_methods() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../keys-service/src/ports");
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder can be read") {
        let path = entry.expect("the folder can be read").path();
        let found = ports(&fs::read_to_string(&path).expect("the file can be read"));
        assert!(found.len() <= 1, "{}: {found:?}", path.display());
        all.extend(found);
    }
    for port in &all {
        assert!(port.required.len() <= REQUIRED_MAX, "{port:?}");
    }
    let required = |name: &str| {
        let port = all.iter().find(|port| port.name == name);
        port.map(|port| port.required.len())
    };
    assert!(required("Keys") > Some(0), "{all:?}");
    assert!(required("RateLimiter") > Some(0), "{all:?}");
}

#[test]
fn methods_with_a_default_are_not_required() {
    let code = "
        /// trait Comment { fn f(); }
        const A: [u8; 3] = [0; 3];
        pub trait Port: Send {
            const SIZE: usize;
            async fn required(&self, digests: [u8; 32]) -> Result<(), Error>;
            fn default(&self) -> u8 { let x = 1; fn inner() {} x }
            fn last(&self) where Self: Sized;
        }
        impl Port for () { fn f() {} }
        struct After;
    ";
    let port = Port {
        name: "Port".to_owned(),
        required: vec!["required".to_owned(), "last".to_owned()],
    };
    assert_eq!(ports(code), [port]);
}
