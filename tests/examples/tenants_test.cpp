#include <algorithm>

#include "program.hpp"

namespace {

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

// B-04
TEST(Tenants, ShareAWorkerEachAndGetAFreshOneAfterACrash) {
  const Program::Result result = Program::run({DROVER_EXAMPLE});
  EXPECT_EQ(result.code, 0) << result.err;
  const std::string& out = result.out;
  EXPECT_EQ(count(out, "ann    worker started"), 2u) << out;
  EXPECT_EQ(count(out, "bob    worker started"), 1u) << out;
  EXPECT_EQ(count(out, "ann    request 1 of this worker"), 2u) << out;
  EXPECT_EQ(count(out, "ann    request 3 of this worker"), 1u) << out;
  EXPECT_EQ(count(out, "bob    request 2 of this worker"), 1u) << out;
  EXPECT_EQ(count(out, "ann    failed: the worker was"), 1u) << out;
  EXPECT_EQ(count(out, "worker stopped: exited with code 0"), 2u) << out;
  EXPECT_EQ(count(out, "no worker is left"), 1u) << out;
}

}  // namespace
