// A second translation unit of every test program that includes all public headers: a function that is neither a template
// nor inline becomes a link error here, not at the first user who includes the library twice.
#include <peft/peft.hpp>
