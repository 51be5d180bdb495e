//! Where libtorch is found when the programs run, and which one it is: `LIBTORCH` names its folder, as for tch.

use std::error::Error;
use std::path::Path;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-changed=Cargo.lock");
    let folder = env::var("LIBTORCH")
        .map_err(|_| "LIBTORCH names no folder of libtorch: `make trainer` in Flair's sources sets it up")?;
    let folder = Path::new(&folder);
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", folder.join("lib").display());
    println!("cargo:rustc-env=FLAIR_LIBTORCH={}", libtorch(folder)?);
    println!("cargo:rustc-env=FLAIR_TCH={}", locked("tch")?);
    Ok(())
}

/// The version, as the folder itself says: a file `build-version` in archives of libtorch, `version.py` in wheels.
fn libtorch(folder: &Path) -> Result<String, Box<dyn Error>> {
    if let Ok(text) = fs::read_to_string(folder.join("build-version")) {
        return Ok(text.trim().to_owned());
    }
    let text = fs::read_to_string(folder.join("version.py"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("__version__ = "));
    let version = line.ok_or("version.py names no version")?.trim_matches(['\'', '"']);
    Ok(version.split('+').next().unwrap_or(version).to_owned())
}

/// The version of a crate in `Cargo.lock`.
fn locked(name: &str) -> Result<String, Box<dyn Error>> {
    let lock = fs::read_to_string("Cargo.lock")?;
    let mut lines = lock.lines().skip_while(|line| *line != format!("name = \"{name}\""));
    let version = lines.nth(1).and_then(|line| line.strip_prefix("version = "));
    Ok(version.ok_or("Cargo.lock does not name it")?.trim_matches('"').to_owned())
}
