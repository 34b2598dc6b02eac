#pragma once

#include <cstddef>
#include <gtest/gtest.h>

#include "support/calls.hpp"
#include "support/shared_memory.hpp"

namespace support {

/// Each test ends with as many descriptors (see Processes) and mappings of shared memory as it began with.
class CallsWithMemory : public Calls {
 protected:
  void SetUp() override {
    Calls::SetUp();
    mappings_ = shared_mappings().size();
  }
  void TearDown() override {
    EXPECT_EQ(shared_mappings().size(), mappings_);
    Calls::TearDown();
  }

 private:
  std::size_t mappings_ = 0;
};

}  // namespace support
