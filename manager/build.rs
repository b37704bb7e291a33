//! Embeds the built console (`console/dist`) into the manager: writes `assets.rs` with every file,
//! plain and by gzip. Without a built console the table is empty and `src/console.rs` says so.

use std::{
    collections::hash_map::DefaultHasher,
    env,
    error::Error,
    fmt::Write as _,
    fs,
    hash::{Hash, Hasher},
    io::Write as _,
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let dist = root.join("console").join("dist");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=migrations");
    // While the folder is missing this makes every build look again: quick, and never stale.
    println!("cargo::rerun-if-changed={}", dist.display());
    let mut files = Vec::new();
    if dist.join("index.html").try_exists()? {
        walk(&dist, &dist, &mut files)?;
    }
    files.sort();
    let mut code = String::from("static ASSETS: &[Asset] = &[\n");
    for (index, (name, path)) in files.iter().enumerate() {
        println!("cargo::rerun-if-changed={}", path.display());
        let bytes = fs::read(path)?;
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&bytes)?;
        let mut gzip = encoder.finish()?;
        if gzip.len() >= bytes.len() {
            gzip.clear();
        }
        let (plain, packed) = (
            out.join(format!("{index}.bin")),
            out.join(format!("{index}.gz")),
        );
        fs::write(&plain, &bytes)?;
        fs::write(&packed, &gzip)?;
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        writeln!(
            code,
            "    Asset {{ path: {name:?}, bytes: include_bytes!({plain:?}), \
             gzip: include_bytes!({packed:?}), etag: {etag:?} }},",
            etag = format!("\"{:016x}\"", hasher.finish()),
        )?;
    }
    code.push_str("];\n");
    fs::write(out.join("assets.rs"), code)?;
    Ok(())
}

/// Every file below a folder, with its path in URL form.
fn walk(
    root: &Path,
    folder: &Path,
    files: &mut Vec<(String, PathBuf)>,
) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            walk(root, &path, files)?;
        } else {
            let parts = path.strip_prefix(root)?.components();
            let parts: Vec<_> = parts
                .map(|part| part.as_os_str().to_string_lossy().into_owned())
                .collect();
            files.push((parts.join("/"), path));
        }
    }
    Ok(())
}
