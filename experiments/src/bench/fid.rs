//! `bench fid`: features of random images by the networks that measure reconstructions, and a Fréchet distance of two sets of features.
//!
//! A network whose weights are not given computes with zeros, which takes as long. What is checked before: that features do not depend on
//! the other images of a batch, and that the distance of a set from itself is none.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, ensure};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use clap::ValueEnum;
use fadam_models::fid::{
    EfficientNetLite0, FeatureMoments, FeatureNetwork, Inception, frechet_distance,
};
use fadam_train::{DeviceChoice, bad_input};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rand_distr::{Distribution, StandardNormal};
use serde::Serialize;

use super::console::{PROFILE, Progress, print_line, warn_of_slow_build};
use super::memory::peak_rss_mb;
use super::times::Times;

/// The arguments of `bench fid`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The network
    #[arg(long, value_enum, default_value_t = Network::Inception)]
    network: Network,
    /// Its weights
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Height and width of an image, before the network's own resize
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    image: u32,
    /// Images of a run
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(2..))]
    images: u32,
    /// Runs; one more before them is not counted
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Where to compute: cpu, cuda, cuda:I, metal or metal:I
    #[arg(long, default_value_t)]
    device: DeviceChoice,
    /// One JSON object instead of a line for people
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Network {
    /// FID's Inception-v3, 2,048 features
    Inception,
    /// EfficientNet-Lite0, 1,280 features
    #[value(name = "efficientnet-lite0")]
    #[serde(rename = "efficientnet-lite0")]
    EfficientNetLite0,
}

/// The result.
#[derive(Debug, Serialize)]
struct Row {
    bench: &'static str,
    network: Network,
    device: String,
    threads: usize,
    profile: &'static str,
    images: u32,
    runs: usize,
    /// Of all images.
    median_ms: f64,
    images_per_s: f64,
    /// Of one Fréchet distance, from moments.
    distance_ms: f64,
    peak_rss_mb: Option<u64>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    warn_of_slow_build();
    let progress = Progress::new();
    let device = args.device.open()?;
    let network = args.open(&device)?;
    progress.show("checking");
    check(network.as_ref(), args.image as usize, &device)?;
    let images = random_images(args.images as usize, args.image as usize, &device)?;
    let mut ms = Vec::new();
    for run in 0..=args.runs {
        progress.show(&format!("run {run} of {}", args.runs));
        let start = Instant::now();
        network.features(&images)?.sum_all()?.to_scalar::<f32>()?;
        if run > 0 {
            ms.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    progress.show("a Fréchet distance");
    let distance_ms = distance_ms(network.width())?;
    progress.show("");
    let runs = ms.len();
    let median_ms = Times::new(ms).context("no run was timed")?.median();
    let row = Row {
        bench: "fid",
        network: args.network,
        device: args.device.to_string(),
        threads: candle_core::utils::get_num_threads(),
        profile: PROFILE,
        images: args.images,
        runs,
        median_ms,
        images_per_s: f64::from(args.images) / median_ms * 1e3,
        distance_ms,
        peak_rss_mb: peak_rss_mb(),
    };
    let name = network.distance_name();
    let line = || row.line(name, network.width());
    Ok(print_line(&if args.json { serde_json::to_string(&row)? } else { line() })?)
}

impl Args {
    fn open(&self, device: &Device) -> anyhow::Result<Box<dyn FeatureNetwork>> {
        let zeros = || VarBuilder::zeros(DType::F32, device);
        Ok(match (self.network, &self.weights) {
            (Network::Inception, Some(file)) => {
                Box::new(Inception::load(file, device).map_err(bad_input)?)
            }
            (Network::Inception, None) => Box::new(Inception::new(&zeros())?),
            (Network::EfficientNetLite0, Some(file)) => {
                Box::new(EfficientNetLite0::load(file, device).map_err(bad_input)?)
            }
            (Network::EfficientNetLite0, None) => Box::new(EfficientNetLite0::new(&zeros())?),
        })
    }
}

impl Row {
    fn line(&self, name: &str, width: usize) -> String {
        let Self { threads, device, images_per_s, distance_ms, .. } = self;
        let peak = self.peak_rss_mb.map_or(String::new(), |mb| format!(", peak {mb} MB"));
        format!(
            "{name}: {images_per_s:.1} images a second, {threads} threads on {device}; a distance of {width} features: {distance_ms:.0} \
             ms{peak}"
        )
    }
}

fn check(network: &dyn FeatureNetwork, side: usize, device: &Device) -> anyhow::Result<()> {
    let images = random_images(3, side, device)?;
    let together = network.features(&images)?.to_vec2::<f32>()?;
    for (i, wanted) in together.iter().enumerate() {
        let alone = network.features(&images.narrow(0, i, 1)?)?.to_vec2::<f32>()?;
        let differ =
            alone[0].iter().zip(wanted).any(|(a, b)| (a - b).abs() > 1e-4 * b.abs().max(1.0));
        ensure!(!differ, "features of an image depend on the others of its batch");
    }
    Ok(())
}

fn distance_ms(width: usize) -> anyhow::Result<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut moments = || -> anyhow::Result<FeatureMoments> {
        let numbers: Vec<f32> = StandardNormal.sample_iter(&mut rng).take(64 * width).collect();
        let mut moments = FeatureMoments::new(width);
        moments.add(&Tensor::from_vec(numbers, (64, width), &Device::Cpu)?)?;
        Ok(moments)
    };
    let (a, b) = (moments()?, moments()?);
    let start = Instant::now();
    let apart = frechet_distance(&a, &b)?;
    let ms = start.elapsed().as_secs_f64() * 1e3;
    let none = frechet_distance(&a, &a)?;
    ensure!(none.abs() < 1e-3 * apart, "a set is {none} from itself, and {apart} from another");
    Ok(ms)
}

fn random_images(count: usize, side: usize, device: &Device) -> candle_core::Result<Tensor> {
    let mut values = vec![0u8; count * 3 * side * side];
    ChaCha8Rng::seed_from_u64(0).fill_bytes(&mut values);
    Tensor::from_vec(values, (count, 3, side, side), device)
}
