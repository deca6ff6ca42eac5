// What the guard must find: a weak function of ours that computes, outside the namespace of the instruction set.
namespace peft {
[[gnu::noinline]] inline float scaled(float a, float b) { return a * b + 1; }
}  // namespace peft

unsigned long ODR_UNIT(const char* folder) { return static_cast<unsigned long>(peft::scaled(static_cast<float>(*folder), 2)) + 1; }
