#include <peft/config/version.hpp>

int main() { return PEFT_VERSION_MAJOR >= 0 ? 0 : 1; }
