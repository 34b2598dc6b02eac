#pragma once

#include <limits>
#include <utility>

#include <drover/error.hpp>
#include <drover/pool/detail/worker/session.hpp>

/// What comes in on the data socket of a worker: RESULTs.
namespace drover { inline namespace v1 { namespace detail {

inline void WorkerCore::on_data_readable() {
  {
    const auto held = lock();
    watching_data_ = false;
    take_results(1);
  }
  dispatcher_->deliver(true);
}

// Bounded: a worker that answers as fast as it is asked would keep this thread for ever.
inline void WorkerCore::read_results() { take_results(16); }

/// Reads at most so many times, or until nothing is left; then the socket is watched again. The callers are told by
/// Dispatcher::deliver().
inline void WorkerCore::take_results(int times) {
  if (!lane_.has_data() || nonsense_) return;  // nothing counts that follows nonsense
  const Dispatcher::Batch batch(*dispatcher_);
  try {
    Channel::Received received{};
    do {
      received = lane_.data().receive();
      while (const auto frame = lane_.data().next()) take_result(*frame);
    } while (--times > 0 && received == Channel::Received::some);
    if (received == Channel::Received::closed) return data_closed();
    if (lane_.data().short_of_memory()) return await_memory();
    const auto at_home = dispatcher_->home()->lock();
    if (io_ && !dispatcher_->home()->down()) watch_data();
  } catch (const Error&) {
    nonsense_ = true;
    give_up(std::current_exception());
  } catch (const std::system_error& error) {
    nonsense_ = true;
    socket_failed("cannot read from the data socket of", error.code());
  } catch (...) {  // no memory for what was sent, which then is lost
    nonsense_ = true;
    give_up(std::current_exception());
  }
}

inline void WorkerCore::take_result(const Frame& frame) {
  const std::shared_ptr<Call> call = lane_.answered(frame.header);
  Outcome outcome{nullptr, static_cast<ResultStatus>(frame.header.status), frame.body};
  const bool cancelled = outcome.status == ResultStatus::cancelled;
  if (outcome.status != ResultStatus::ok) {
    try {
      outcome.failure = refusal_of(outcome);
    } catch (const DecodeError& error) {
      throw Error(Errc::protocol_error, "worker '" + options_.name + "' sent a malformed answer: " + error.what());
    }
  }
  if (stop_.begun())
    ++(cancelled ? report_.cancelled : report_.drained);
  else if (cancelled && call->state == CallState::running)
    return;  // nobody on this side has cancelled it: the worker ends, and its exit status is what the caller needs
  if (!std::exchange(answered_a_call_, true))
    if (const auto supervision = supervision_.lock()) supervision->worker_answered(*this);
  dispatcher_->answer(call, std::move(outcome), lane_.data().reader());
}

/// The worker has closed its data socket and usually is about to exit. If it lives on it is of no use.
inline void WorkerCore::data_closed() {
  lane_.close();
  if (!stop_.begun()) reap_within(options_.shutdown_grace);
}

}}}  // namespace drover::v1::detail
