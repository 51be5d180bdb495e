use std::collections::BTreeSet;

use flair_tensors::{DType, Role};

#[test]
fn roles_follow_from_names_dtypes_and_siblings() {
    let names: BTreeSet<&str> = [
        "bn.running_mean",
        "bn.running_var",
        "lone.running_mean",
        "running_mean",
        "running_var",
        "q_proj.lora_A.weight",
        "q_proj.lora_B.weight",
        "v_proj.lora_A.default.weight",
        "v_proj.lora_B.default.weight",
        "k_proj.lora_A.weight",
        "up.lora_down.weight",
        "up.lora_up.weight",
    ]
    .into();
    let cases = [
        ("bn.weight", DType::F32, Role::Float),
        ("bn.running_mean", DType::F32, Role::BatchNorm),
        ("bn.running_var", DType::BF16, Role::BatchNorm),
        ("running_var", DType::F64, Role::BatchNorm),
        ("lone.running_mean", DType::F32, Role::Float),
        ("bn.running_mean", DType::I64, Role::Exact),
        ("bn.num_batches_tracked", DType::I64, Role::Counter),
        ("num_batches_tracked", DType::I32, Role::Counter),
        ("bn.num_batches_tracked", DType::F32, Role::Float),
        ("bn.num_batches_tracked", DType::Bool, Role::Exact),
        ("position_ids", DType::I64, Role::Exact),
        ("mask", DType::Bool, Role::Exact),
        ("quantised", DType::I8, Role::Exact),
        ("quantised", DType::F8E4M3, Role::Exact),
        ("q_proj.lora_A.weight", DType::F16, Role::LoraA),
        ("q_proj.lora_B.weight", DType::F16, Role::LoraB),
        ("v_proj.lora_A.default.weight", DType::F32, Role::LoraA),
        ("k_proj.lora_A.weight", DType::F32, Role::Float),
        ("up.lora_down.weight", DType::F32, Role::LoraA),
        ("up.lora_up.weight", DType::F32, Role::LoraB),
    ];
    for (name, dtype, role) in cases {
        assert_eq!(Role::infer(name, dtype, &names), role, "{name} {dtype}");
    }
}

#[test]
fn roles_are_texts() {
    for role in
        [Role::Float, Role::BatchNorm, Role::Counter, Role::Exact, Role::Local, Role::LoraA, Role::LoraB]
    {
        assert_eq!(serde_json::to_string(&role).unwrap(), format!("\"{role}\""));
        assert_eq!(serde_json::from_str::<Role>(&format!("\"{}\"", role.name())).unwrap(), role);
    }
}

#[test]
fn what_is_not_finite_is_found_in_every_float_type() {
    let all = |dtype: DType, bytes: &[u8]| dtype.all_finite(bytes);
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert!(!all(DType::F64, &[1.5_f64.to_le_bytes(), value.to_le_bytes()].concat()));
        assert!(!all(DType::F32, &[1.5_f32.to_le_bytes(), (value as f32).to_le_bytes()].concat()));
        let upper = ((value as f32).to_bits() >> 16) as u16;
        assert!(!all(DType::BF16, &[0x3f80_u16.to_le_bytes(), upper.to_le_bytes()].concat()));
    }
    assert!(!all(DType::F16, &0x7c00_u16.to_le_bytes()) && !all(DType::F16, &0x7e01_u16.to_le_bytes()));
    assert!(!all(DType::F8E5M2, &[0x7c]) && !all(DType::F8E4M3, &[0xff]));
    assert!(all(DType::F64, &f64::MAX.to_le_bytes()) && all(DType::F32, &f32::MIN.to_le_bytes()));
    assert!(all(DType::F16, &0x7bff_u16.to_le_bytes()) && all(DType::BF16, &0xff7f_u16.to_le_bytes()));
    assert!(all(DType::F8E5M2, &[0x7b]) && all(DType::F8E4M3, &[0x7e]), "448 is the largest number there");
    assert!(all(DType::I64, &u64::MAX.to_le_bytes()) && all(DType::Bool, &[0xff]));
}
