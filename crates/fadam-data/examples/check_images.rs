//! Looks at pictures and says what is wrong with them.
//!
//! ```text
//! check_images SIZE PLACE…
//! ```
//!
//! `SIZE` is the shorter side that they are scaled to; places are those of [`ImageSource`]: files, folders,
//! tables, IDX files, files of the hub. Every picture is decoded once; the last line has the speed.

use std::path::PathBuf;
use std::time::Instant;

use fadam_data::image::{ImageBatches, ImageSet, ImageSource, ImageSpec, SetSpec};

/// Batches of 64 that are timed afterwards.
const BATCHES: usize = 50;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let size = arguments.next().and_then(|size| size.to_str()?.parse().ok());
    let (Some(size), places) = (size, arguments.map(PathBuf::from).collect::<Vec<_>>()) else {
        return Err("usage: check_images SIZE PLACE…".into());
    };
    let (pictures, report) = ImageSource::Places(places).read()?;
    println!("{report}");
    let (started, count) = (Instant::now(), pictures.len());
    let set = ImageSet::build(pictures, &SetSpec::new(size), &|_, _| {})?;
    let seconds = started.elapsed().as_secs_f64();
    println!("{}", set.report());
    println!(
        "{} in memory, decoded and scaled at {:.0}/s",
        set.kept_in_memory(),
        count as f64 / seconds
    );

    let mut batches = ImageBatches::new(set.into(), ImageSpec::augmented(64, 0))?;
    let started = Instant::now();
    for _ in 0..BATCHES {
        batches.next_batch()?;
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("batches of augmented pictures at {:.0}/s", 64.0 * BATCHES as f64 / seconds);
    Ok(())
}
