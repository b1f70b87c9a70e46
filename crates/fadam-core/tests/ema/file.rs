//! Files of averaged weights: resumed is uninterrupted, bit for bit; what is damaged or does not fit is refused, and
//! nothing has changed.

use std::path::Path;

use candle_core::{DType, Device, Var};
use fadam_core::{Error, NamedVars, WeightEma};

use super::{DTYPES, averages, model, thetas, train, values};

#[test]
fn resumed_is_uninterrupted() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ema.safetensors");
    for dtype in DTYPES {
        let vars = model(dtype, &[5, 4]);
        let mut whole = WeightEma::new(&vars, 0.9).unwrap().warm_up(true);
        train(&mut whole, &vars, 0..6);

        let vars = model(dtype, &[5, 4]);
        let mut first = WeightEma::new(&vars, 0.9).unwrap().warm_up(true);
        train(&mut first, &vars, 0..3);
        first.swap().unwrap(); // does not touch what is saved
        first.save(&file).unwrap();
        first.swap().unwrap();
        let mut second = WeightEma::new(&vars, 0.9).unwrap().warm_up(true);
        let theta = thetas(&vars);
        second.load(&file).unwrap();
        assert_eq!((second.steps(), thetas(&vars)), (3, theta));
        assert_eq!(averages(&second, &vars), averages(&first, &vars));
        train(&mut second, &vars, 3..6);
        assert_eq!(averages(&second, &vars), averages(&whole, &vars), "{dtype:?}");
    }
}

#[test]
fn a_file_is_weights_with_metadata() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ema.safetensors");
    let vars = model(DType::BF16, &[5, 4]);
    let mut ema = WeightEma::new(&vars, 0.9).unwrap();
    train(&mut ema, &vars, 0..2);
    ema.save(&file).unwrap();
    ema.save(&file).unwrap(); // over the first
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "a file was left aside: {left:?}");

    let bytes = std::fs::read(&file).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().clone().unwrap();
    for (key, value) in [
        ("format", "fadam-ema"),
        ("version", "1"),
        ("step", "2"),
        ("decay", "0.9"),
        ("warm_up", "false"),
    ] {
        assert_eq!(metadata[key], value);
    }
    let weights = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    assert_eq!(weights.len(), vars.len());
    for (name, weight) in &weights {
        assert_eq!(values(weight), values(&ema.average(name).unwrap()));
    }

    let err = ema.save(folder.path().join("no/such/folder/ema")).unwrap_err().to_string();
    assert!(err.contains("no/such/folder/ema"), "{err}");
}

/// Loading `file` fails with a message that holds all of `expected`, and changes nothing.
fn refuses(vars: &NamedVars, file: &Path, expected: &[&str]) {
    let mut ema = WeightEma::new(vars, 0.9).unwrap();
    train(&mut ema, vars, 0..1);
    let before = (ema.steps(), averages(&ema, vars), thetas(vars));
    let err = ema.load(file).unwrap_err();
    assert!(matches!(err, Error::StateFile { .. }), "{err}");
    let err = err.to_string();
    assert!(err.contains(&*file.display().to_string()), "names no file: {err}");
    for part in expected {
        assert!(err.contains(part), "{part:?} is not in: {err}");
    }
    assert!((ema.steps(), averages(&ema, vars), thetas(vars)) == before, "something changed");
}

#[test]
fn what_does_not_fit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ema.safetensors");
    let vars = model(DType::F32, &[5, 4]);
    let mut ema = WeightEma::new(&vars, 0.9).unwrap();
    train(&mut ema, &vars, 0..2);
    ema.save(&file).unwrap();

    refuses(&model(DType::F32, &[4, 5]), &file, &["\"weight\"", "[5, 4]", "[4, 5]"]);
    refuses(&model(DType::F64, &[5, 4]), &file, &["\"bias\"", "F32", "F64"]);
    let fewer = model(DType::F32, &[5, 4]).into_iter().filter(|(name, _)| name != "bias").collect();
    refuses(&fewer, &file, &["holds \"bias\"", "does not have"]);
    let mut more = model(DType::F32, &[5, 4]);
    more.insert("zulu", Var::new(&[1f32], &Device::Cpu).unwrap()).unwrap();
    refuses(&more, &file, &["holds no \"zulu\""]);
    refuses(&vars, &folder.path().join("absent"), &["No such file"]);

    ema.swap().unwrap();
    let err = ema.load(&file).unwrap_err().to_string();
    assert!(err.contains("load while the averages are swapped in"), "{err}");
}

#[test]
fn damaged_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ema.safetensors");
    let vars = model(DType::F32, &[5, 4]);
    let ema = WeightEma::new(&vars, 0.9).unwrap();
    ema.save(&file).unwrap();
    let whole = std::fs::read(&file).unwrap();
    for cut in (0..whole.len()).step_by(7).chain([whole.len() - 1]) {
        std::fs::write(&file, &whole[..cut]).unwrap();
        refuses(&vars, &file, &["not a whole safetensors file"]);
    }
    std::fs::write(&file, [&whole[..], b"more"].concat()).unwrap();
    refuses(&vars, &file, &["not a whole safetensors file"]);
    let mut header = whole.clone();
    header[9] ^= 0x40; // the JSON
    std::fs::write(&file, header).unwrap();
    refuses(&vars, &file, &["not a whole safetensors file"]);

    let with = |metadata: &[(&str, &str)]| {
        let tensors = vars.iter().map(|(name, var)| (name, var.as_tensor()));
        let metadata = metadata.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        safetensors::serialize_to_file(tensors, Some(metadata), &file).unwrap();
    };
    let (format, version) = (("format", "fadam-ema"), ("version", "1"));
    let cases: [(&[(&str, &str)], &str); 7] = [
        (&[], "not an average of weights"),
        (&[("format", "fadam-state"), version, ("step", "1")], "not an average of weights"),
        (&[format, ("step", "1")], "its version is none"),
        (&[format, ("version", "2"), ("step", "1")], "its version is 2"),
        (&[format, version], "no step count"),
        (&[format, version, ("step", "-1")], "no step count"),
        (&[format, version, ("step", "1.5")], "no step count"),
    ];
    for (metadata, expected) in cases {
        with(metadata);
        refuses(&vars, &file, &[expected]);
    }
    // And the rest of such a file is right:
    with(&[format, version, ("step", "7")]);
    let mut ema = WeightEma::new(&vars, 0.9).unwrap();
    ema.load(&file).unwrap();
    assert_eq!(ema.steps(), 7);
}
