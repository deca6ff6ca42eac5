#pragma once

/// Everything public but the glue in ext/. The file part needs nlohmann/json and is there when the compiler finds it, unless
/// PEFT_NO_FILES is defined.
#include <peft/adapters/all.hpp>
#include <peft/fwd.hpp>
#include <peft/layers/adapted.hpp>
#include <peft/layers/any_adapter.hpp>
#include <peft/layers/bank.hpp>
#include <peft/layers/chain.hpp>
#include <peft/layers/merge.hpp>
#include <peft/layers/per_row.hpp>
#include <peft/linalg/polar.hpp>
#include <peft/linalg/qr.hpp>
#include <peft/linalg/randomized_svd.hpp>
#include <peft/linalg/svd.hpp>
#include <peft/linear/dense.hpp>
#include <peft/linear/dense_view.hpp>
#include <peft/optim/adamw.hpp>
#include <peft/optim/clip.hpp>
#include <peft/optim/lora_plus.hpp>
#include <peft/optim/schedule.hpp>
#include <peft/optim/sgd.hpp>

#if __has_include(<nlohmann/json.hpp>) && !defined(PEFT_NO_FILES)
#include <peft/io/load.hpp>
#include <peft/io/save.hpp>
#include <peft/io/training_state.hpp>
#endif
