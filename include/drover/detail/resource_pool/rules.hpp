#pragma once

#include <cstddef>
#include <optional>

#include <drover/detail/resource_pool/actions.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail { namespace resource_pool {

/// The options of a pool that decide about its entries.
struct Rules {
  Duration ttl{};
  std::optional<std::size_t> max_idle;
  bool events = false;     // whether events are recorded
  std::size_t shards = 1;  // more than one only without max_idle and without events: these need one order for all keys
  std::size_t clear_piece = piece;  // how many values of a clear() begin to end in one handler
};

}}}}  // namespace drover::v1::detail::resource_pool
