#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <stop_token>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include <asio/cancellation_signal.hpp>
#include <asio/io_context.hpp>

#include <drover/wire/body.hpp>
#include <drover/wire/channel.hpp>
#include <drover/wire/frame.hpp>
#include <drover/wire/protocol.hpp>
#include <drover/worker/detail/call_streams.hpp>
#include <drover/worker/detail/call_waits.hpp>
#include <drover/worker/detail/coroutine_call.hpp>
#include <drover/worker/detail/hook.hpp>
#include <drover/worker/detail/incoming_frames.hpp>
#include <drover/worker/detail/noticed_cancels.hpp>
#include <drover/worker/detail/routine_table.hpp>
#include <drover/worker/detail/running_call.hpp>
#include <drover/worker/detail/shared_state.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The calls of a worker, all on the main thread: reads CALLs, runs their routines and writes RESULTs, until the
/// control thread sets the drain flag and no call is in flight any more.
///
/// Plain routines run while frames are being read, coroutines when the io_context resumes them. Results are gathered.
/// They are sent before the loop waits, or before the next routine if they have waited for a while.
///
/// A routine that blocks on a stream reads the socket itself meanwhile, see wait_in_routine().
///
/// A call that was sent ahead waits until the calls before it have ended and their RESULTs are sent, see ahead_flag.
class CallLoop final : CallWaits::Listener, StreamPort::Loop {
 public:
  CallLoop(WorkerState& state, const RoutineTable& routines, const WorkerHooks& hooks);
  CallLoop(const CallLoop&) = delete;
  CallLoop& operator=(const CallLoop&) = delete;

  /// Runs the start hooks on this loop. Throws what they throw, and the exceptions of other user handlers on it.
  void prepare();
  /// Sends HELLO. Throws std::system_error if the process is out of threads or descriptors.
  void begin();
  /// Runs calls, and returns once drained and the stop hooks have ended. Throws the exceptions of user handlers on this
  /// loop.
  void run();

 private:
  static constexpr unsigned trusted_after = 32;  // quick runs in a row, after which a result may wait for the next one
  static constexpr Duration longest_wait = std::chrono::microseconds(100);  // of a result for later ones

  // Reading.
  inline void readable() override;
  void watch_data() { waits_.watch_data(begun_ != 0); }
  bool receive();
  std::size_t take_frames();
  void accept(const Frame& frame);
  void dispatch(const Frame& frame);
  void run_plain(const FrameHeader& call, Routine& routine, std::string_view name, Decoder& arguments,
                 const CallFacts& facts);
  void run_streaming(const FrameHeader& call, Routine& routine);
  void refuse_stream(const FrameHeader& call, const Routine& routine, std::string_view name);
  void start_coroutine(const Frame& frame, Routine& routine);
  void coroutine_ended(CoroutineCall& call, std::exception_ptr failure);
  void count_coroutines() noexcept { state_.coroutines.store(coroutines_.size(), std::memory_order_relaxed); }
  bool is_cancelled() const noexcept { return cancelling_ || current_cancelled_; }
  bool is_cancelled(std::uint64_t call) const noexcept;

  // Streams.
  std::shared_ptr<StreamPort> open_stream(const FrameHeader& call, const Routine& routine);
  inline void queue_frame(FrameHeader header, FrameBody& body, StreamPort::Flush flush) override;
  inline bool has_sent_all() override;
  inline void wait_in_routine(std::uint64_t call) override;
  void queue_in_routine(FrameHeader header, FrameBody& body);
  void wait_for_frames(std::uint64_t call);
  bool take_stream_frames();

  // Writing.
  void answer(const FrameHeader& call, ResultStatus status, FrameBody& body, bool quick = false);
  void refuse(const FrameHeader& call, ResultStatus status, std::string_view text, bool cancelled = false);
  void ended(bool cancelled);
  void flush();

  // Flags from the control thread.
  inline void notified() override;
  void wait_failed() override { connection_lost(); }
  void poll_flags();
  void carry_out_flags();
  void cancel(std::uint64_t call, CancelReason reason);
  void cancel_all();
  void take_no_more();
  void forget_call();
  void given_back(std::uint64_t call);
  void connection_lost();

  // After each step: send, then wait for more, or finish.
  void go_on();
  inline void writable() override;
  inline void turn_came() override;
  bool must_wait();
  bool all_read() const noexcept;
  bool done() const noexcept;
  void wind_up();
  void finish();

  WorkerState& state_;
  const RoutineTable& routines_;
  const WorkerHooks& hooks_;
  const std::size_t limit_;

  // Declared before the context, whose coroutine frames refer to them.
  std::unordered_map<std::uint64_t, std::unique_ptr<CoroutineCall>> coroutines_;
  std::vector<std::unique_ptr<CoroutineCall>> over_;  // ended, but possibly still on the stack
  std::unordered_set<std::uint64_t> early_cancels_;   // of calls that have not been read yet
  NoticedCancels noticed_{state_};

  asio::io_context context_{1};
  Channel& data_;
  CallWaits waits_;

  CallStreams streams_;
  IncomingFrames incoming_{data_};
  bool held_ = false;               // there may be frames that have not been processed
  bool full_ = false;               // the socket takes no more data now
  Clock::time_point now_;           // when the last call ended, or the reading of calls began
  Clock::time_point unsent_since_;  // if anything is unsent
  FrameBody scratch_{4096};

  const RoutineTable::Entry* last_routine_ = nullptr;  // the one that was called last: calls often are of the same
  std::uint64_t current_ = 0;                          // the call being accepted or run
  bool current_cancelled_ = false;
  std::uint32_t flags_ = 0;  // those already processed
  bool draining_ = false, cancelling_ = false, parent_gone_ = false, lost_ = false, finished_ = false;
  bool winding_up_ = false;      // the stop hooks run, or have ended
  std::uint64_t last_call_ = 0;  // from the STOP frame
  std::uint64_t begun_ = 0;      // the last call that has begun
  bool takes_no_more_ = false;   // no call begins any more, and the parent has been notified
};

}}}  // namespace drover::v1::detail

#include <drover/worker/detail/call_loop.ipp>
#include <drover/worker/detail/call_loop_flags.ipp>
#include <drover/worker/detail/call_loop_hooks.ipp>
#include <drover/worker/detail/call_loop_streams.ipp>
