#pragma once
// Replays one case and says how it went. One builder for each model or class; none looks at the name of the case.
#include <string>

namespace golden {

struct Result {
    enum class Verdict { ok, fail, unsupported } verdict = Verdict::fail;
    std::string line;     ///< "ok lora_plain LORA y=... dx=... grads=... merged=... resave=... checked=n/m"
};

/// `directory` holds case.json and tensors.safetensors; computes in float or double.
template <class T> Result replay(const std::string& directory);
extern template Result replay<float>(const std::string&);
extern template Result replay<double>(const std::string&);

}  // namespace golden
