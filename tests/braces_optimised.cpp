// The same tests once more, compiled with optimisation.
#include "braces.cpp"
