#pragma once

#include <memory>

#include <drover/detail/context/registry.hpp>
#include <drover/pool/detail/call/call_keys.hpp>
#include <drover/pool/detail/call/call_ledger.hpp>
#include <drover/pool/detail/call/call_timer.hpp>
#include <drover/pool/detail/call/call_times.hpp>
#include <drover/pool/detail/call/calls_ahead.hpp>
#include <drover/pool/detail/call/keyed_calls.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// All that is kept about the calls of a dispatcher, wherever they are. Its parts share it, under its mutex.
struct CallRecords {
  CallRecords(Dispatcher& dispatcher, const std::shared_ptr<ContextRegistry>& registry, PoisonPolicy poison)
      : keyed(poison), timer(dispatcher, registry, sent_ahead) {}
  CallRecords(const CallRecords&) = delete;
  CallRecords& operator=(const CallRecords&) = delete;

  CallTimes times;
  KeyedCalls keyed;
  CallsAhead sent_ahead;
  CallTimer timer;
  CallLedger ledger{keyed, sent_ahead, timer};
};

}}}  // namespace drover::v1::detail
