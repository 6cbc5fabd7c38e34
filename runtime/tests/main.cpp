// doctest's main; each test_*.cpp beside holds the tests of one module.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
