// The tests of braces.cpp, compiled with optimisation.
#include "braces.cpp"
