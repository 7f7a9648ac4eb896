//! What the README shows is what there is.

use std::path::Path;

#[test]
fn the_example_stands_in_it_as_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let read = |path: &str| {
        std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    let (readme, example) = (read("README.md"), read("examples/own-cluster/tests/conformance.rs"));
    assert!(
        readme.contains(&format!("```rust\n{example}```\n")),
        "README.md shows another examples/own-cluster/tests/conformance.rs than there is; copy it there"
    );
    let from_main = example.lines().skip_while(|line| !line.starts_with("fn main"));
    let main = from_main.take_while(|line| *line != "}").count() + 1;
    assert!(main <= 10, "the README speaks of ten lines, and `main` has {main}");
}
