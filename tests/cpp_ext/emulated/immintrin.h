// In the place of the compiler's: the same functions as plain loops, by SIMDe.
#define SIMDE_NO_NATIVE
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
