//! The Python module `homeserver._rust`: one file per exported module, and `errors`.
//!
//! Calls of some microseconds keep the interpreter lock; giving it up costs more than they do. Calls on batches
//! release it.

#![allow(clippy::needless_pass_by_value, reason = "arguments from Python, and errors, arrive by value")]

mod auth_graph;
mod canonical_json;
mod convert;
mod errors;
mod event_auth_rules;
mod events;
mod push_rules;
mod signing;
mod state_resolution;
mod state_trees;

use pyo3::prelude::*;

type Register = fn(&Bound<'_, PyModule>) -> PyResult<()>;

#[pymodule]
fn _rust(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let submodules: [(&str, Register); 9] = [
        ("auth_graph", auth_graph::register),
        ("canonical", canonical_json::register),
        ("errors", errors::register),
        ("event_auth", event_auth_rules::register),
        ("events", events::register),
        ("push", push_rules::register),
        ("signing", signing::register),
        ("state_res", state_resolution::register),
        ("state_tree", state_trees::register),
    ];
    let py = module.py();
    // An extension module is no package: what it contains must be put where `import` looks.
    let loaded = py.import("sys")?.getattr("modules")?;
    for (name, register) in submodules {
        let path = format!("homeserver._rust.{name}");
        let submodule = PyModule::new(py, &path)?;
        register(&submodule)?;
        module.add(name, &submodule)?;
        loaded.set_item(path, submodule)?;
    }
    Ok(())
}
