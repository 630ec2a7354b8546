use std::path::Path;

use mien::{
    attributes::{AgeGroup, Attributes, LOGITS, Temperatures},
    frame::Picture,
};

use super::{file::About, *};
use crate::{
    augment::Mix,
    classifier::{
        config::{Assignment, Flags},
        evaluate::Validation,
        labels::read_all,
        loader::{Loader, Order},
        model::{Model, WEIGHTS},
        run,
        run::split,
    },
    ledger::Baseline,
};

/// Square photos of one colour each, red in even rows and blue in odd ones, with a box and landmarks; their labels are as
/// `label` writes them, a column `mask` and then `gender,age`.
fn photos(folder: &Path, count: usize, label: &str) {
    let mut table =
        "file,mask,gender,age,box_w,box_h,lm_x0,lm_y0,lm_x1,lm_y1,lm_x2,lm_y2,lm_x3,lm_y3,lm_x4,lm_y4\n"
            .to_owned();
    std::fs::create_dir_all(folder.join("photos")).unwrap();
    for i in 0..count {
        let shade = 120 + (i * 37 % 100) as u8;
        let colour = if i % 2 == 0 { [shade, 30, 20] } else { [20, 30, shade] };
        let name = format!("{i}.png");
        Picture::from_pixel(128, 128, image::Rgb(colour)).save(folder.join("photos").join(&name)).unwrap();
        table += &format!("{name},{label},80,100,42,50,86,50,64,78,47,98,81,98\n");
    }
    std::fs::write(folder.join("photos.csv"), table).unwrap();
}

/// A run of seconds on [`photos`].
fn small(data: &Path) -> Config {
    Config {
        data: data.to_owned(),
        holdout: 0.25,
        network: "simple_cnn".into(),
        sizes: vec![16],
        epochs: 1.0,
        batch: 8,
        painted: 0.5,
        ..Config::default()
    }
}

fn dataset(config: &Config) -> (Split, Dataset) {
    let (split, _, training) = split(config).unwrap();
    let framing = config.framing(&training);
    let dataset = Dataset::load(&config.data, training, framing, config.old_from, Device::Cpu).unwrap();
    (split, dataset)
}

fn logits() -> Tensor {
    Tensor::randn([6, LOGITS as i64], (Kind::Float, Device::Cpu)) * 2.0
}

#[test]
fn heads_sum_to_one_and_age_groups_are_columns() {
    let logits = logits();
    let p = head_log_p(&logits).exp();
    assert_eq!(p.size(), [6, COLUMNS as i64]);
    for range in [MASK, GENDER, AGE] {
        let sums = part(&p, range).sum_dim_intlist(1, false, Kind::Float);
        assert!((sums - 1.0).abs().max().double_value(&[]) < 1e-5);
    }
    let rows = Vec::<f32>::try_from(logits.flatten(0, -1)).unwrap();
    for (i, row) in rows.chunks_exact(LOGITS).enumerate() {
        let expected = Attributes::from_logits(row, Temperatures::default()).age;
        let [_, middle, old] = AgeGroup::STARTS.map(|year| AGE.start + year / YEARS);
        for (group, columns) in [AGE.start..middle, middle..old, old..AGE.end].into_iter().enumerate() {
            let found = part(&p, columns).get(i as i64).sum(Kind::Float).double_value(&[]);
            assert!((found - f64::from(expected[group])).abs() < 1e-5, "{found}, not {expected:?}");
        }
    }
}

#[test]
fn teachers_share_with_labels_and_speak_alone_where_there_is_none() {
    let folder = tempfile::tempdir().unwrap();
    photos(folder.path(), 6, "none,,");
    let config = Config { holdout: 0.0, ..small(folder.path()) };
    let faces = read_all(folder.path()).unwrap();
    let loaded = Dataset::load(folder.path(), faces, config.framing(&[]), 60, Device::Cpu).unwrap();
    let index = Tensor::arange(6, (Kind::Int64, Device::Cpu));
    let (logits, soft) = (logits(), head_log_p(&logits()));
    let labels = loaded.labels.select(&index);
    let heads = |weight: f64| {
        let settings = Settings { weight, temperature: 3.0, ..Settings::default() };
        settings.loss(&logits, &soft, &labels, 0.5).double_value(&[])
    };
    let mean = |range: Range<usize>| {
        let student = part(&head_log_p(&logits), range.clone());
        divergence(&student, &part(&soft, range), 3.0).mean(Kind::Float).double_value(&[])
    };
    // Masks are known, gender and age are not.
    let unknown = mean(GENDER) + 0.5 * mean(AGE);
    for weight in [0.0, 0.25, 1.0] {
        assert!((heads(weight) - (weight * mean(MASK) + unknown)).abs() < 1e-4, "{weight}");
    }
}

/// Soft labels by colour: red is taken for a woman of 70, blue for a man of 20.
fn by_colour(config: &Config) -> SoftLabels {
    let (split, dataset) = dataset(config);
    let row = |face: &crate::classifier::labels::Face| {
        let red = face.file.trim_end_matches(".png").parse::<usize>().unwrap() % 2 == 0;
        let mut p = vec![1e-4f32; COLUMNS];
        p[2] = 0.98;
        p[if red { GENDER.end - 1 } else { GENDER.start }] = 0.98;
        p[AGE.start + if red { 70 } else { 20 } / YEARS] = 0.98;
        p.into_iter().map(f32::ln).collect::<Vec<f32>>()
    };
    let rows: Vec<f32> = dataset.faces.iter().flat_map(row).collect();
    SoftLabels {
        about: About {
            teachers: vec![("colour".into(), "0".into())],
            split: split.hash(),
            wardrobe: config.wardrobe,
            painted_views: 0,
            years: YEARS,
        },
        views: vec![1; dataset.faces.len()],
        labels: Tensor::from_slice(&rows).view([-1, COLUMNS as i64]).to_kind(Kind::Half),
        photos: dataset.photos,
    }
}

#[test]
fn a_student_learns_from_soft_labels_alone() {
    let folder = tempfile::tempdir().unwrap();
    photos(folder.path(), 48, "none,,");
    let path = folder.path().join("soft.safetensors");
    let mut config = Config { painted: 0.0, epochs: 12.0, ..small(folder.path()) };
    config.schedule.rate = 5e-3;
    config.average = 0.8;
    by_colour(&config).write(&path).unwrap();
    config.distillation.labels = Some(path);
    let out = folder.path().join("run");
    run(&config, &Baseline::default(), &out, &|_| false).unwrap();

    let model = Model::load(&config, &out.join(WEIGHTS), Device::Cpu).unwrap();
    let (_, held_out, _) = split(&config).unwrap();
    let faces = Validation::of_run(&config, folder.path(), held_out, Device::Cpu).unwrap();
    let right = faces.faces().zip(model.predict(&faces, false).unwrap()).map(|((face, _), said)| {
        let red = face.file.trim_end_matches(".png").parse::<usize>().unwrap() % 2 == 0;
        let heads = said.heads();
        (heads.gender[1] > 0.5) == red && (heads.years > 45.0) == red
    });
    let right: Vec<bool> = right.collect();
    assert!(right.len() >= 8 && right.iter().all(|&right| right), "{right:?}");
}

#[test]
fn a_file_is_read_as_it_was_written_and_only_for_its_photos() {
    let folder = tempfile::tempdir().unwrap();
    photos(folder.path(), 12, "none,male,30");
    let path = folder.path().join("soft.safetensors");
    let config = Config { painted: 0.0, ..small(folder.path()) };
    let written = by_colour(&config);
    written.write(&path).unwrap();
    let read = || SoftLabels::read(&path).unwrap();
    assert_eq!((read().about, read().photos, read().views), (written.about, written.photos, written.views));
    assert!(read().labels.equal(&written.labels));
    let expected = SoftLabels::bytes(read().photos.len(), read().photos.len());
    let bytes = std::fs::metadata(&path).unwrap().len() as usize;
    assert!((expected..expected + 1024).contains(&bytes), "{bytes}, not {expected}");

    let refused = |config: &Config| {
        let (split, dataset) = dataset(config);
        read().aligned(&path, config, &split, &dataset).unwrap_err().to_string()
    };
    let (split, loaded) = dataset(&config);
    read().aligned(&path, &config, &split, &loaded).unwrap();
    let painted = refused(&Config { painted: 0.5, ..config.clone() });
    assert!(painted.contains("--painted-views"), "{painted}");
    let other_split = refused(&Config { seed: 2, ..config.clone() });
    assert!(other_split.contains("other photos from training"), "{other_split}");
    // One photo has changed, its name has not.
    let face = &loaded.faces[2];
    Picture::from_pixel(128, 128, image::Rgb([1, 2, 3]))
        .save(folder.path().join("photos").join(&face.file))
        .unwrap();
    let other_photo = refused(&config);
    let named = format!("for 1 of the {} training photos", loaded.faces.len());
    assert!(
        other_photo.contains(&named) && other_photo.contains(&format!("photos/{}", face.file)),
        "{other_photo}"
    );

    std::fs::write(&path, b"no tensors").unwrap();
    let error = format!("{:#}", SoftLabels::read(&path).unwrap_err());
    assert!(error.contains("soft.safetensors"), "{error}");
}

#[test]
fn teachers_teach_through_a_file_what_they_say_themselves() {
    let folder = tempfile::tempdir().unwrap();
    photos(folder.path(), 16, "none,male,30");
    let teacher = |name: &str, size: i64, centre_crop: bool| {
        let out = folder.path().join(name);
        let mut config = Config { sizes: vec![size], ..small(folder.path()) };
        config.input.centre_crop = centre_crop;
        run(&config, &Baseline::default(), &out, &|_| false).unwrap();
        out
    };
    let teachers = vec![teacher("a", 16, true), teacher("b", 24, false)];
    let path = folder.path().join("soft.safetensors");
    let config = small(folder.path());
    let flags = Flags::of(&[
        Assignment::parse("data", folder.path().to_str().unwrap()),
        Assignment::parse("holdout", "0.25"),
        Assignment::parse("sizes", "[16]"),
        Assignment::parse("painted", "0.5"),
    ]);
    let mut options =
        Options { teachers: teachers.clone(), painted_views: 2, out: path.clone(), most_mib: 16.0, flags };
    soft_labels(&options).unwrap();

    // Every batch that a student is shown, bare and painted, has the labels that the teachers give it.
    let (split, loaded) = dataset(&config);
    let live = Teachers::load(&teachers, &config, &split, &loaded.faces, Device::Cpu).unwrap();
    let taught =
        Config { distillation: Settings { labels: Some(path), ..Settings::default() }, ..config.clone() };
    let teaching = Teaching::of(&taught, &split, &loaded, Device::Cpu).unwrap().unwrap();
    let order = Order::new(&loaded.faces, 8, 1);
    let mut batches = Loader::spawn(&loaded, order, 0, &taught, teaching.painting());
    let mut views = std::collections::BTreeSet::new();
    for _ in 0..4 {
        let batch = batches.recv().unwrap();
        let (images, _, sides) = batch.gather(&loaded);
        let (found, expected) =
            (teaching.soft(&batch, &images, &sides, 0), live.say(&[0, 1], &images, &sides, true));
        assert!((found.exp() - expected.exp()).abs().max().double_value(&[]) < 2e-3);
        views.extend(batch.views);
    }
    assert_eq!(views.into_iter().collect::<Vec<u8>>(), [0, 1, 2]);

    // A file has labels of each picture that is blended, teachers one of the blend.
    let (images, mut labels, sides) = batches.recv().unwrap().gather(&loaded);
    let soft = live.say(&[0, 1], &images, &sides, false);
    labels.soft = Some(soft.shallow_clone());
    let partner = Tensor::arange(soft.size()[0], (Kind::Int64, Device::Cpu)).flip([0]);
    let of_partners = |teaching: &Teaching| teaching.partners(&labels, &partner);
    assert!(of_partners(&teaching).soft.unwrap().equal(&soft.flip([0])));
    let alone = [live.say(&[0], &images, &sides, false), live.say(&[1], &images, &sides, false)];
    let live = of_partners(&Teaching::Teachers { teachers: live, asked: 2 });
    assert!(live.soft.unwrap().equal(&soft) && live.gender.equal(&labels.gender.flip([0])));

    // Where one is asked it is now this teacher and now that one, the same one by the same lot.
    let config_of = |asked| Config {
        distillation: Settings { teachers: teachers.clone(), asked: Some(asked), ..Settings::default() },
        ..config.clone()
    };
    let one = Teaching::of(&config_of(1), &split, &loaded, Device::Cpu).unwrap().unwrap();
    let batch = batches.recv().unwrap();
    let asked = |lot: u64| {
        let said = one.soft(&batch, &images, &sides, lot);
        alone.iter().position(|teacher| teacher.equal(&said)).expect("one of the two")
    };
    let turns: Vec<usize> = (0..12).map(asked).collect();
    assert!(turns.contains(&0) && turns.contains(&1), "{turns:?}");
    assert_eq!(turns, (0..12).map(asked).collect::<Vec<usize>>());
    for wrong in [0, 3] {
        let error = Teaching::of(&config_of(wrong), &split, &loaded, Device::Cpu).unwrap_err().to_string();
        assert!(error.contains(&format!("distillation.asked is {wrong}; there are 2")), "{error}");
    }

    // Students learn by file and from the teachers themselves, blended or not.
    let live = Settings { teachers: teachers.clone(), ..Settings::default() };
    let blended = Mix { mixup: 1.0, alpha: 1.0, ..Mix::default() };
    for (name, distillation, mix) in [
        ("by file", taught.distillation.clone(), Mix::default()),
        ("live", live.clone(), Mix::default()),
        ("live, blended", live, blended),
    ] {
        let config = Config { distillation, mix, ..config.clone() };
        let out = folder.path().join(name);
        run(&config, &Baseline::default(), &out, &|_| false).unwrap();
        let log = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        assert!(log.contains("\"event\":\"end\""), "{log}");
    }

    options.most_mib = 0.001;
    let error = soft_labels(&options).unwrap_err().to_string();
    assert!(error.contains("--painted-views"), "{error}");
    // Teachers that have seen what the student is measured on.
    let flags = Flags::of(&[Assignment::parse("data", folder.path().to_str().unwrap())]);
    let error = soft_labels(&Options { flags, most_mib: 16.0, ..options }).unwrap_err().to_string();
    assert!(error.contains("measured on"), "{error}");
}
