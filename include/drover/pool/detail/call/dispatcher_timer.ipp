#pragma once

#include <new>
#include <utility>

#include <drover/pool/detail/call/dispatcher.hpp>
#include <drover/pool/detail/call/expired_calls.hpp>
#include <drover/wire/channel.hpp>

namespace drover { inline namespace v1 { namespace detail {

inline void Dispatcher::on_timer() {
  ExpiredCalls expired;
  {
    const auto held = lock();
    records_.timer.fired();
    const auto now = Clock::now();
    if (admission_.refuses_queued())
      records_.sent_ahead.stop_looking();  // a stop: what was sent is still run
    else
      records_.sent_ahead.recall_late(now);
    while (Call* const due = records_.timer.due(now)) {
      Call& call = *due;
      if (call.link != nullptr && records_.timer.once_in_turn(*call.link)) {
        call.link->worker().read_results(16);  // the result may have arrived, if it was this process that slept
      } else if (call.state == CallState::resting && !(call.due && *call.due <= now)) {
        end_rest(call);
      } else if (call.state == CallState::abandoned) {  // kill_after has passed
        records_.timer.remove(call);
        call.link->worker().kill_worker(call);
      } else if (!expired.prepare(call, now)) {
        records_.timer.add(call, now + Channel::memory_pause);  // the others do not wait for memory
      } else {
        records_.timer.remove(call);
        auto keep_alive = call.shared_from_this();
        if (end_for_caller(call, CallEvent::expired)) expired.add(std::move(keep_alive));
      }
    }
    send_queued();
    try {
      records_.timer.arm();
    } catch (const std::bad_alloc&) {  // the next call with a deadline tries again; these callers do not wait for that
    }
  }
  expired.complete();
  run_completions(true);
}

}}}  // namespace drover::v1::detail
