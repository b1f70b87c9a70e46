//! `report`: from the folders of sweeps and runs to one page with the paper's tables and figures beside ours.
//!
//! ```text
//! sweep.toml, results.csv ─► Sweep ┐
//! runs/ or curves.csv,             ├─► Answer (which runs, contrasts, verdicts) ─► Document ─► report.html
//!          provenance.csv          │                                                     └───► report.md, figures/*.svg
//! paper.toml ─────────────► Paper ─┘
//! ```
//!
//! What is committed (`docs/results/NAME/`) is enough to make the report again, so `--check` can tell whether a committed report is what
//! its numbers say. Nothing in the pages depends on when or where they were made.

pub mod answer;
mod answered;
pub mod charts;
pub mod document;
pub mod figure;
pub mod html;
pub mod markdown;
pub mod metric;
pub mod page;
pub mod paper;
pub mod records;
pub mod results;
pub mod settings;
mod sources;
pub mod statistics;
pub mod sweep;
pub mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::Parser;
use fadam_train::{bad_input, write_atomically};

use document::{Block, Document};
use sweep::Sweep;

/// The page for a browser.
pub const HTML: &str = "report.html";
/// The page for the repository.
pub const MARKDOWN: &str = "report.md";

/// Makes a report on the paper's tables and figures from the folders of sweeps and runs: one HTML page that needs nothing else, and
/// Markdown with its figures beside it.
#[derive(Debug, Parser)]
#[command(name = "report", version)]
pub struct Args {
    /// Folders of sweeps (sweep.toml, results.csv) and of runs (config.toml, summary.json); none: those in the folder of the report.
    pub folders: Vec<PathBuf>,

    /// The folder of the report.
    #[arg(long, value_name = "DIR", default_value = "docs/results")]
    pub out: PathBuf,

    /// Write nothing; fail if the report in the folder is not the one that its results give.
    #[arg(long, conflicts_with = "extract")]
    pub check: bool,

    /// Copy what a report needs of each sweep (sweep.toml, results.csv, curves.csv, provenance.csv) to DIR/NAME instead.
    #[arg(long, value_name = "DIR")]
    pub extract: Option<PathBuf>,
}

/// Makes, checks or extracts; returns lines for the user.
///
/// # Errors
///
/// Bad input (exit code 2), naming file, line and column, if a folder is not what it should be; a failure (1) if the report does not
/// pass `--check`, or a file cannot be written.
pub fn run(args: &Args) -> anyhow::Result<String> {
    let folders =
        if args.folders.is_empty() { folders_in(&args.out)? } else { args.folders.clone() };
    let sweeps: Vec<Sweep> =
        folders.iter().map(|folder| Sweep::read(folder)).collect::<Result<_, _>>()?;
    let mut places = BTreeMap::new();
    for sweep in &sweeps {
        if let Some(other) = places.insert(sources::id(sweep), &sweep.folder) {
            let (a, b) = (other.display(), sweep.folder.display());
            return Err(bad_input(anyhow!(
                "{a} and {b}: the report cannot tell their names apart"
            )));
        }
    }
    if let Some(folder) = &args.extract {
        return extract(folder, &sweeps);
    }
    let document = page::report(&sweeps)?;
    let files = files(&document);
    if args.check {
        return check(&args.out, &files);
    }
    write(&args.out, &files)?;
    let page = args.out.join(HTML);
    Ok(format!("{} sweeps and runs, {} files -> {}", sweeps.len(), files.len(), page.display()))
}

/// The folders of sweeps in a folder, by name; none if it does not exist.
fn folders_in(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let read = || -> std::io::Result<Vec<PathBuf>> {
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
    };
    let mut folders = read().with_context(|| folder.display().to_string()).map_err(bad_input)?;
    folders.retain(|path| path.join(sweep::FILE).is_file());
    folders.sort();
    Ok(folders)
}

/// The report's files by their path in its folder.
fn files(document: &Document) -> BTreeMap<String, String> {
    let mut files = BTreeMap::from([
        (HTML.to_owned(), html::page(document)),
        (MARKDOWN.to_owned(), markdown::page(document)),
    ]);
    for block in &document.blocks {
        if let Block::Figure(figure) = block {
            let path = format!("{}/{}.svg", markdown::FIGURES, figure.name);
            files.insert(path, figure::standalone(&figure.svg));
        }
    }
    files
}

/// Writes the files, and removes figures of an earlier report that are in this one no longer.
fn write(out: &Path, files: &BTreeMap<String, String>) -> anyhow::Result<()> {
    for name in files.keys() {
        let path = out.join(name);
        let folder = path.parent().unwrap_or(out);
        fs::create_dir_all(folder)
            .with_context(|| format!("{}: cannot be made", folder.display()))
            .map_err(bad_input)?;
    }
    for (name, contents) in files {
        write_atomically(&out.join(name), contents.as_bytes())?;
    }
    for name in stale_figures(out, files)? {
        fs::remove_file(out.join(&name)).with_context(|| format!("cannot remove {name}"))?;
    }
    Ok(())
}

/// Figures in the folder of the report that it does not have.
fn stale_figures(out: &Path, files: &BTreeMap<String, String>) -> anyhow::Result<Vec<String>> {
    let figures = out.join(markdown::FIGURES);
    let mut stale = Vec::new();
    if figures.is_dir() {
        for entry in fs::read_dir(&figures)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let path = format!("{}/{name}", markdown::FIGURES);
            let is_figure = Path::new(&name).extension().is_some_and(|end| end == "svg");
            if is_figure && !files.contains_key(&path) {
                stale.push(path);
            }
        }
    }
    stale.sort();
    Ok(stale)
}

/// Compares the files with those in the folder.
fn check(out: &Path, files: &BTreeMap<String, String>) -> anyhow::Result<String> {
    let mut differences = Vec::new();
    for (name, contents) in files {
        match fs::read_to_string(out.join(name)) {
            Err(error) => differences.push(format!("{name}: {error}")),
            Ok(found) if found == *contents => {}
            Ok(found) => {
                let same = found.lines().zip(contents.lines()).take_while(|(a, b)| a == b).count();
                differences.push(format!("{name}: differs from line {}", same + 1));
            }
        }
    }
    differences.extend(
        stale_figures(out, files)?.into_iter().map(|name| format!("{name}: is not of this report")),
    );
    if !differences.is_empty() {
        bail!(
            "{} is not the report that its results give; make it again without --check: {}",
            out.display(),
            differences.join("; ")
        );
    }
    Ok(format!("{} is what its results give: {} files", out.display(), files.len()))
}

/// Writes what a report needs of each sweep into a folder of its own.
fn extract(into: &Path, sweeps: &[Sweep]) -> anyhow::Result<String> {
    let mut names = BTreeSet::new();
    for sweep in sweeps {
        if sweep.is_single {
            let place = sweep.folder.display();
            return Err(bad_input(anyhow!("{place}: is a single run; --extract takes sweeps")));
        }
        if !names.insert(sweep.name.as_str()) {
            return Err(bad_input(anyhow!("--extract: two sweeps have the name {}", sweep.name)));
        }
    }
    let mut lines = Vec::new();
    for sweep in sweeps {
        let folder = into.join(&sweep.name);
        fs::create_dir_all(&folder)
            .with_context(|| format!("{}: cannot be made", folder.display()))
            .map_err(bad_input)?;
        let compared = sweep.compared();
        let results = fs::read(sweep.folder.join(results::FILE))?;
        let files = [
            (sweep::FILE, sweep.config.clone().into_bytes()),
            (results::FILE, results),
            (records::CURVES, sweep.records.curves_csv(&compared)?.into_bytes()),
            (records::PROVENANCE, sweep.records.provenance_csv(&compared)?.into_bytes()),
        ];
        for (name, contents) in files {
            write_atomically(&folder.join(name), &contents)?;
        }
        let with_curve = compared.iter().filter(|name| sweep.records.curves.contains_key(**name));
        lines.push(format!(
            "{}: {} of {} runs with a curve -> {}",
            sweep.name,
            with_curve.count(),
            compared.len(),
            folder.display()
        ));
    }
    Ok(lines.join("\n"))
}
