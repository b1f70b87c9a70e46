//! A reader under watch: it neither panics, nor hangs, nor takes memory beyond a bound, and says what is wrong in one paragraph.

use std::fs;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use peak_alloc::PeakAlloc;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use super::damage::Hostile;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// What is measured is of the whole program, so that one reader is watched at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Seconds after which a reader of a few kilobytes hangs.
const HANG: u64 = 60;

/// The longest message, in characters.
const MESSAGE: usize = 2100;

/// What reads a format: an error is a message for a person.
pub type Read<'r> = &'r dyn Fn(&[u8]) -> Result<(), String>;

/// Gives `read` valid files and then damaged ones: `FADAM_FUZZ_CASES` of them (200), drawn from `FADAM_FUZZ_SEED` (1). `mib` bounds the
/// memory that reading takes at any moment. The input that a process died of lies in the folder of temporary files.
pub fn survives(name: &str, seeds: &[Vec<u8>], mib: usize, read: Read<'_>) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for (n, seed) in seeds.iter().enumerate() {
        read(seed).unwrap_or_else(|why| panic!("{name}: valid file {n} is refused: {why}"));
    }
    let number =
        |key, default: u64| std::env::var(key).map_or(default, |text| text.parse().expect(key));
    let cases = u32::try_from(number("FADAM_FUZZ_CASES", 200)).unwrap();
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&number("FADAM_FUZZ_SEED", 1).to_le_bytes());
    let config =
        Config { cases, failure_persistence: None, max_shrink_iters: 2000, ..Config::default() };
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));

    let last = std::env::temp_dir().join(format!("fadam-hostile-{name}-{}", std::process::id()));
    let seen = Mutex::new((0, 0, 0));
    let outcome = runner.run(&Hostile::any(seeds.len()), |hostile| {
        let bytes = hostile.bytes(seeds);
        fs::write(&last, &bytes).unwrap();
        let (answer, peak) = watched(name, &last, || read(&bytes));
        let refused = check(&answer, peak, mib).map_err(TestCaseError::fail)?;
        let mut seen = seen.lock().unwrap();
        *seen = (seen.0 + 1, seen.1 + usize::from(refused), seen.2.max(peak));
        Ok(())
    });
    if let Err(error) = outcome {
        if let TestError::Fail(_, hostile) = &error {
            fs::write(&last, hostile.bytes(seeds)).unwrap();
        }
        panic!("{name}: {error}\nthe input is {}", last.display());
    }
    fs::remove_file(&last).unwrap();
    let (all, refused, peak) = *seen.lock().unwrap();
    println!(
        "{name}: {all} damaged files, {refused} refused, at most {:.1} MiB",
        peak as f64 / 1_048_576.0
    );
    assert!(refused * 10 > all, "{name}: the damage does not reach what is read");
}

/// What `read` says, and the most memory that it held, in bytes.
fn watched<T>(name: &str, input: &Path, read: impl FnOnce() -> T) -> (T, usize) {
    let (alive, watch) = mpsc::channel::<()>();
    let place = format!("{name}: hangs on {}", input.display());
    let dog = std::thread::spawn(move || {
        if watch.recv_timeout(Duration::from_secs(HANG)) == Err(RecvTimeoutError::Timeout) {
            eprintln!("{place}");
            std::process::exit(1);
        }
    });
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let answer = read();
    let peak = MEMORY.peak_usage().saturating_sub(before);
    drop(alive);
    dog.join().unwrap();
    (answer, peak)
}

/// Whether it was refused.
fn check(answer: &Result<(), String>, peak: usize, mib: usize) -> Result<bool, String> {
    if peak > mib << 20 {
        return Err(format!("took {} MiB, above {mib}", peak >> 20));
    }
    let Err(message) = answer else { return Ok(false) };
    let length = message.chars().count();
    if message.trim().is_empty() || length > MESSAGE {
        return Err(format!("a message of {length} characters: {message:.200}"));
    }
    Ok(true)
}
