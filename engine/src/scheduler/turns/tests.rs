//! Models that take turns on a virtual clock.

use super::*;

/// A model: what a step takes, or a slice at least, and who always waits for it.
struct Model {
    kind: Kind,
    micros: u64,
    payers: Vec<Payer>,
}

fn payer(name: &str, band: Band, weight: u64) -> Payer {
    Payer { band, principal: name.into(), weight }
}

fn interactive(name: &str) -> Payer {
    payer(name, Band::Interactive, 1)
}

fn model(kind: Kind, micros: u64, names: &[&str]) -> Model {
    Model { kind, micros, payers: names.iter().map(|name| interactive(name)).collect() }
}

#[derive(Default)]
struct Outcome {
    seconds: f64,
    /// By model, and by principal.
    of_model: Vec<f64>,
    of_principal: BTreeMap<String, f64>,
    /// The longest time of embeddings between two chat steps, in parts of the step before.
    delay_max: f64,
    /// The greatest difference of two principals' service divided by weight, since the beginning.
    gap_max: f64,
}

fn turns() -> Turns {
    Turns::new(TurnLimits {
        embed_share: 0.2,
        embed_time_max: Duration::from_millis(200),
        mixed_embed_time_max: Duration::from_millis(25),
    })
}

/// Lets models take turns for so many seconds; `wants` says who wants one at a time.
fn run(models: &[Model], seconds: f64, wants: impl Fn(f64, usize) -> bool) -> Outcome {
    let mut turns = turns();
    let mut out = Outcome { of_model: vec![0.0; models.len()], ..Outcome::default() };
    let (mut between, mut step) = (0.0, f64::INFINITY);
    while out.seconds < seconds {
        turns.begin();
        for (index, model) in models.iter().enumerate().filter(|(index, _)| wants(out.seconds, *index)) {
            let claims = model.payers.iter().cloned();
            claims.for_each(|payer| turns.claim(ModelKey(index as u64), model.kind, payer));
        }
        let turn = turns.next().expect("somebody wants something");
        let index = turn.model.0 as usize;
        let Model { kind, micros, payers } = &models[index];
        let least = Duration::from_micros(*micros);
        let took = match kind {
            Kind::Chat => {
                (between, step) = (0.0, least.as_secs_f64());
                turns.chat_ran(least);
                least
            }
            Kind::Embed => {
                let took = turn.time_max.max(least);
                turns.embeddings_ran(took, &turn);
                between += took.as_secs_f64();
                out.delay_max = out.delay_max.max(between / step);
                took
            }
        };
        out.seconds += took.as_secs_f64();
        out.of_model[index] += took.as_secs_f64();
        for payer in payers {
            let part = took / payers.len() as u32;
            turns.charge(turn.model, payer, part);
            *out.of_principal.entry(payer.principal.to_string()).or_default() += part.as_secs_f64();
        }
        let served = models.iter().flat_map(|model| &model.payers).map(|payer| {
            out.of_principal.get(&*payer.principal).copied().unwrap_or_default() / payer.weight as f64
        });
        let (least, most) = served.fold((f64::INFINITY, 0.0_f64), |(a, b), s| (a.min(s), b.max(s)));
        out.gap_max = out.gap_max.max(most - least);
    }
    out
}

#[track_caller]
fn near(got: f64, expected: f64) {
    assert!((got - expected).abs() <= 0.03, "{got} instead of {expected}");
}

#[test]
fn embeddings_delay_a_stream_by_their_share_of_a_step_however_many_there_are() {
    for chat_micros in [1_000, 3_000, 20_000, 60_000] {
        let models = [model(Kind::Chat, chat_micros, &["chats"]), model(Kind::Embed, 50, &["embeds"])];
        let out = run(&models, 20.0, |_, _| true);
        assert!(out.delay_max <= 0.2 + 1e-9, "{} of a step of {chat_micros} us", out.delay_max);
        near(out.of_model[1] / out.of_model[0], 0.2);
    }
}

#[test]
fn a_piece_longer_than_a_slice_is_paid_for_by_waiting() {
    let models = [model(Kind::Chat, 2_000, &["chats"]), model(Kind::Embed, 3_000, &["embeds"])];
    let out = run(&models, 20.0, |_, _| true);
    near(out.of_model[1] / out.of_model[0], 0.2);
    near(out.delay_max, 1.5);
}

#[test]
fn embeddings_get_no_less_than_their_principals_share() {
    let names: Vec<String> = (0..19).map(|i| format!("chat {i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let models = [model(Kind::Chat, 5_000, &names), model(Kind::Embed, 50, &["embeds"])];
    let out = run(&models, 50.0, |_, _| true);
    near(out.of_principal["embeds"] / out.seconds, 0.05);
    assert!(out.of_principal["embeds"] / out.seconds > 0.045);
}

#[test]
fn embeddings_have_the_cores_when_chats_rest() {
    let models = [model(Kind::Chat, 4_000, &["a"]), model(Kind::Embed, 50, &["b"])];
    let out = run(&models, 20.0, |now, model| model == 1 || now % 2.0 < 1.0);
    near(out.of_model[1] / out.seconds, 0.5 + 0.5 / 6.0);
}

#[test]
fn principals_of_different_chat_models_never_drift_apart_by_more_than_a_turn_of_each() {
    for micros in [[3_000, 40_000], [1_000, 1_000], [200_000, 7_000]] {
        let models = [model(Kind::Chat, micros[0], &["a"]), model(Kind::Chat, micros[1], &["b"])];
        let out = run(&models, 30.0, |_, _| true);
        let bound = (micros[0] + micros[1]) as f64 * 1e-6;
        assert!(out.gap_max <= bound + 1e-4, "{} s apart, {bound} s allowed", out.gap_max);
        near(out.of_principal["a"] / out.seconds, 0.5);
    }
}

#[test]
fn shares_follow_weights_and_who_has_several_models_gets_no_more() {
    let weighted = |name, weight| payer(name, Band::Interactive, weight);
    let chat = |payers| Model { kind: Kind::Chat, micros: 4_000, payers };
    let rows = [
        (vec![chat(vec![weighted("a", 3)]), chat(vec![weighted("b", 1)])], 0.75),
        (vec![chat(vec![weighted("a", 1)]), chat(vec![weighted("a", 1)]), chat(vec![weighted("b", 1)])], 0.5),
        // a shares one model with three others.
        (
            vec![
                chat(["a", "c", "d", "e"].map(|name| weighted(name, 1)).to_vec()),
                chat(vec![weighted("b", 1)]),
            ],
            0.2,
        ),
    ];
    for (models, share) in rows {
        let out = run(&models, 30.0, |_, _| true);
        near(out.of_principal["a"] / out.seconds, share);
    }
}

#[test]
fn models_of_one_principal_share_its_time() {
    let models = [model(Kind::Chat, 2_000, &["a"]), model(Kind::Chat, 30_000, &["a"])];
    near(run(&models, 20.0, |_, _| true).of_model[0] / 20.0, 0.5);
}

#[test]
fn bands_go_by_urgency_over_floors() {
    let of_band = |kind, band| Model { kind, micros: 100, payers: vec![payer(band_name(band), band, 1)] };
    let rows = [
        // Embeddings less urgent than the chat: the floor of their band; more urgent: all but the chat's.
        ([(Kind::Chat, Band::Interactive), (Kind::Embed, Band::Batch)], 0.10),
        ([(Kind::Chat, Band::Batch), (Kind::Embed, Band::Interactive)], 0.90),
        ([(Kind::Chat, Band::BestEffort), (Kind::Chat, Band::Batch)], 0.98),
        ([(Kind::Chat, Band::System), (Kind::Chat, Band::Interactive)], 0.30),
    ];
    for (kinds, second) in rows {
        let models = kinds.map(|(kind, band)| of_band(kind, band));
        let out = run(&models, 20.0, |_, _| true);
        near(out.of_model[1] / out.seconds, second);
    }
}

fn band_name(band: Band) -> &'static str {
    ["system", "interactive", "batch", "best effort"][band as usize]
}

#[test]
fn who_was_away_has_saved_up_nothing() {
    let models = [model(Kind::Chat, 5_000, &["stays"]), model(Kind::Chat, 5_000, &["comes"])];
    let out = run(&models, 20.0, |now, model| model == 0 || now >= 15.0);
    near(out.of_principal["comes"] / 5.0, 0.5);
}

#[test]
fn who_comes_begins_where_chats_stand_and_not_where_embeddings_are_held_back() {
    let models = [
        model(Kind::Chat, 5_000, &["stays"]),
        model(Kind::Embed, 50, &["embeds"]),
        model(Kind::Chat, 5_000, &["comes"]),
    ];
    let before = run(&models, 60.0, |now, model| model < 2 && now < 60.0);
    let out = run(&models, 62.0, |now, model| model < 2 || now >= 60.0);
    near((out.of_principal["stays"] - before.of_principal["stays"]) / 2.0, 0.5 / 1.2);
}

#[test]
fn principals_that_are_gone_are_forgotten() {
    let mut turns = turns();
    for client in 0..10 * PRINCIPALS_MAX {
        turns.begin();
        let payer = interactive(&client.to_string());
        turns.claim(ModelKey(0), Kind::Chat, payer.clone());
        let turn = turns.next().expect("it wants one");
        turns.charge(turn.model, &payer, Duration::from_millis(1));
    }
    assert!(turns.accounts.len() <= PRINCIPALS_MAX + 1);
    assert_eq!(turns.accounts.len(), turns.by_principal.len());
}
