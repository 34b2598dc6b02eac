#pragma once

#include <drover/pool/detail/call/dispatcher.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// While it exists, the results of a worker are read: see Dispatcher::begin_batch().
class ResultBatch {
 public:
  explicit ResultBatch(Dispatcher& dispatcher) noexcept : dispatcher_(dispatcher) { dispatcher_.begin_batch(); }
  ~ResultBatch() { dispatcher_.end_batch(); }
  ResultBatch(const ResultBatch&) = delete;
  ResultBatch& operator=(const ResultBatch&) = delete;

 private:
  Dispatcher& dispatcher_;
};

}}}  // namespace drover::v1::detail
