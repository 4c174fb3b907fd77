defmodule EmbeddedEpmd.Server do
  @moduledoc false
  # The supervised process: claims the native server, passes its log entries to the logger and its changes to the
  # subscribers, and restarts it if it ends while the VM is a node. If there is no server, it waits for one. When this
  # process ends, the native server goes on.
  #
  # The first such process registers under the name of this module. Further ones of the same VM wait until it ends,
  # and one of them takes its place.

  use GenServer

  alias EmbeddedEpmd.Boot.{Config, Environment, Exposure, HostAddress, Interface, Lifecycle, Log}
  alias EmbeddedEpmd.Doctor.{Exposed, Facts}
  alias EmbeddedEpmd.Native
  alias EmbeddedEpmd.Server.{Settings, Subscribers}

  # The time over which the native side limits and counts log entries; milliseconds.
  @window 1_000
  # The backoff between attempts to start the server, and how long one must have run to be restarted at once;
  # milliseconds.
  @min_backoff 1_000
  @max_backoff 30_000
  @stable_after 60_000

  @enforce_keys [:subscribers]
  defstruct [
    :subscribers,
    server: nil,
    since: 0,
    backoff: 0,
    last_warning: nil,
    log_level: nil,
    unrouted?: false,
    open?: false,
    waiting: [],
    timers: %{}
  ]

  @spec start_link(keyword()) :: GenServer.on_start()
  def start_link(options) do
    _ = Config.load(options)
    GenServer.start_link(__MODULE__, options)
  end

  @doc "Does for a VM that is about to become a node what the process would do."
  @spec prepare(keyword()) :: :ok | {:error, String.t()}
  def prepare(options) do
    _ = Config.load(options)
    if Process.whereis(__MODULE__) == nil, do: Lifecycle.put_options(options)
    Lifecycle.tell_ignored()
    with {:ok, _server} <- with(:none <- Lifecycle.ensure(), do: {:ok, :none}), do: :ok
  end

  @doc "Sends changes to `pid` from now on; returns the state that they change."
  @spec subscribe(pid()) :: EmbeddedEpmd.snapshot()
  def subscribe(pid), do: GenServer.call(__MODULE__, {:subscribe, pid})

  @spec unsubscribe(pid()) :: :ok
  def unsubscribe(pid), do: GenServer.call(__MODULE__, {:unsubscribe, pid})

  @doc "Logs from this level on, for this many milliseconds."
  @spec put_log_level(:none | :logger.level(), pos_integer()) :: :ok | {:error, :stopped}
  def put_log_level(level, time), do: GenServer.call(__MODULE__, {:put_log_level, level, time})

  @impl GenServer
  def init(options) do
    Process.flag(:trap_exit, true)
    Lifecycle.tell_ignored()

    if first?() do
      Lifecycle.put_options(options)
      _ = if Node.alive?(), do: warn_if_exposed()

      case look_after(new()) do
        {:ok, state} -> {:ok, state, {:continue, :drain}}
        {:error, sentence} -> {:stop, sentence}
      end
    else
      case check_options(options) do
        :ok -> {:ok, wait()}
        {:error, sentence} -> {:stop, sentence}
      end
    end
  end

  defp new do
    # It is also told when this VM becomes a node, or ceases to be one.
    _ = :net_kernel.monitor_nodes(true, node_type: :all)
    %__MODULE__{subscribers: Subscribers.new()}
  end

  ## One of several

  defp first? do
    Process.register(self(), __MODULE__)
  rescue
    ArgumentError -> false
  end

  # There is one server, and it runs with the options of the first process, even after that process has ended.
  defp check_options(options) do
    first = Lifecycle.options()

    case Enum.find(options, fn option -> settings([option | first]) != settings(first) end) do
      nil ->
        :ok

      {key, _} ->
        [mine, theirs] = for options <- [options, first], do: inspect(Config.get(key, options))

        {:error,
         "embedded_epmd: the option #{key} of a second EmbeddedEpmd in this VM says #{mine}, but the first " <>
           "runs with #{theirs}: give both the same options, or use config :embedded_epmd, #{key}: ..."}
    end
  end

  # One option may become several settings. Where they come from is no difference.
  defp settings(options), do: Map.drop(Config.load(options), [:port_chosen, :addresses_chosen])

  defp wait do
    reference = Process.monitor(__MODULE__)
    with pid when is_pid(pid) <- Process.whereis(__MODULE__), do: send(pid, {:waits, self()})
    {:waits, reference}
  end

  ## Requests

  @impl GenServer
  def handle_continue(:drain, state), do: {:noreply, drain(state)}

  @impl GenServer
  def handle_call({:subscribe, pid}, _from, %{server: nil} = state) do
    {:reply, %{role: :stopped, nodes: []}, update_in(state.subscribers, &Subscribers.add(&1, pid, 0))}
  end

  def handle_call({:subscribe, pid}, _from, state) do
    # The native side must record changes before the snapshot is made, so that none is lost between the two.
    Native.follow(state.server, true)
    {number, role, nodes} = Native.snapshot(state.server)
    nodes = for {name, port, creation, user} <- nodes, do: %{name: name, port: port, creation: creation, user: user}
    {:reply, %{role: role, nodes: nodes}, update_in(state.subscribers, &Subscribers.add(&1, pid, number))}
  end

  def handle_call({:unsubscribe, pid}, _from, state) do
    {:reply, :ok, follow(update_in(state.subscribers, &Subscribers.remove(&1, pid)))}
  end

  def handle_call({:put_log_level, _level, _time}, _from, %{server: nil} = state),
    do: {:reply, {:error, :stopped}, state}

  def handle_call({:put_log_level, level, time}, _from, state) do
    Log.let_through(level)
    Log.log(:notice, "logging from level #{level} on for #{time / 1_000} s#{where(Native.status(state.server))}")
    with timer when timer != nil <- state.timers[:log_level], do: Process.cancel_timer(timer)
    timer = Process.send_after(self(), {:timer, :log_level}, time)
    state = %{state | log_level: level, timers: Map.put(state.timers, :log_level, timer)}
    {:reply, :ok, log_from(state)}
  end

  # Else one waits for requests that another VM answers.
  defp where(%{role: :serving}), do: ""
  defp where(%{owner: nil}), do: ""
  defp where(%{owner: owner}), do: "; requests are answered, and logged, by the owner of the port at #{owner}"

  ## News

  @impl GenServer
  def handle_info({:DOWN, reference, :process, _, _}, {:waits, reference}) do
    if first?(), do: {:noreply, look_after_later(new())}, else: {:noreply, wait()}
  end

  def handle_info(_, {:waits, _} = state), do: {:noreply, state}
  def handle_info({:waits, pid}, state), do: {:noreply, %{state | waiting: [pid | alive(state.waiting)]}}
  def handle_info({:embedded_epmd, :events}, state), do: {:noreply, drain(state)}

  def handle_info({:embedded_epmd, :probe}, state) do
    if state.server, do: Native.answer_probe(state.server)
    {:noreply, state}
  end

  def handle_info({:embedded_epmd, :started}, state), do: {:noreply, look_after_later(state)}
  def handle_info({:embedded_epmd, :stopped, reason}, state), do: {:noreply, ended(drain(state), reason)}

  def handle_info({:nodeup, node, _}, state) when node == node(), do: {:noreply, update_exposure(named(state))}

  def handle_info({node_event, _node, _}, state) when node_event in [:nodeup, :nodedown],
    do: {:noreply, update_exposure(state)}

  def handle_info({:timer, what}, state), do: {:noreply, due(what, update_in(state.timers, &Map.delete(&1, what)))}

  def handle_info({:DOWN, _ref, :process, pid, _reason}, state) do
    {:noreply, follow(update_in(state.subscribers, &Subscribers.remove(&1, pid)))}
  end

  def handle_info(_other, state), do: {:noreply, state}

  defp due(:look_after, state), do: look_after_later(state)
  defp due(:drain, state), do: drain(state)
  defp due(:log_level, state), do: log_from(%{drain(state) | log_level: nil})
  defp due(:overflow, state), do: schedule_overflow(update_in(state.subscribers, &Subscribers.notify_missed/1))

  # Configuring the server sets its level, too: a level that was put for a time holds until its end all the same.
  defp log_from(%{server: nil} = state), do: state
  defp log_from(%{log_level: nil} = state), do: restore_log_level(state)

  defp log_from(state) do
    Native.log_from(state.server, state.log_level)
    state
  end

  defp restore_log_level(state) do
    Log.let_through(nil)
    Native.log_from(state.server, Config.get(:log_level, Lifecycle.options()))
    state
  rescue
    # A setting has become invalid since the start; the level of that time is not known any more.
    ArgumentError ->
      Native.log_from(state.server, :notice)
      state
  end

  # Stops the server only if nobody can need it: the VM stops, or it is not a node and no other supervised process
  # waits.
  @impl GenServer
  def terminate(_reason, {:waits, _}), do: :ok

  def terminate(reason, state) do
    if Environment.stopping?() or (orderly?(reason) and not Environment.distributed?() and last?(state)) do
      Lifecycle.stop()
      # What it leaves behind is logged at its end, which no message tells any more.
      if state.server, do: log(elem(Native.take(state.server), 0))
    end
  end

  defp log(entries), do: for({level, sentence, fields} <- entries, do: Log.log(level, sentence, fields))

  defp orderly?(reason), do: reason in [:normal, :shutdown] or match?({:shutdown, _}, reason)
  defp last?(state), do: alive(state.waiting) == []
  defp alive(pids), do: Enum.filter(pids, &Process.alive?/1)

  ## The server

  # Claims the server of this VM, and starts one before if the VM needs it.
  defp look_after(%{server: nil} = state) do
    case Lifecycle.ensure() do
      {:ok, server} -> claim(state, server)
      :none -> {:ok, state}
      {:error, sentence} -> {:ok, retry_later(warn_once(state, sentence))}
    end
  end

  defp look_after(state), do: {:ok, state}

  defp claim(state, server) do
    unrouted? = not Environment.routed?()
    open? = not unrouted? or Exposure.open?(Native.status(server).port, state.open? or Lifecycle.registered?())

    with :ok <- Settings.configure(server, open?) do
      case Native.claim(server, self()) do
        {:ok, :ok} ->
          if Environment.distributed?(), do: HostAddress.warn_if_missing(server)
          state = %{state | server: server, since: now(), last_warning: nil, unrouted?: unrouted?, open?: open?}
          {:ok, follow(log_from(state))}

        {:error, :stopped} ->
          {:ok, retry_later(state)}
      end
    end
  end

  # After its start this process survives every error of the server: its end could end the application.
  defp look_after_later(state) do
    case look_after(state) do
      {:ok, %{server: server} = claimed} when server != state.server -> drain(send_snapshot(claimed))
      {:ok, state} -> state
      {:error, sentence} -> retry_later(warn_once(state, sentence))
    end
  end

  # The subscribers know another server or none, so they get the whole state of this one.
  defp send_snapshot(state) do
    if Subscribers.any?(state.subscribers) do
      {number, role, nodes} = Native.snapshot(state.server)
      nodes = for {name, port, creation, user} <- Enum.reverse(nodes), do: {:registered, name, port, creation, user}
      update_in(state.subscribers, &Subscribers.reset(&1, [{:role, role} | nodes], number))
    else
      state
    end
  end

  # The server ends with the distribution. For any other reason it leaves a node without a server.
  defp ended(state, reason) do
    if reason != :stopped, do: Log.log(:error, "the native server ended", reason: text(reason))
    subscribers = Subscribers.reset(state.subscribers, [{:role, :stopped}], 0)
    backoff = if now() - state.since >= @stable_after, do: 0, else: state.backoff
    retry_later(%{state | server: nil, subscribers: subscribers, backoff: backoff})
  end

  defp text(reason) when is_binary(reason), do: reason
  defp text(reason), do: inspect(reason)

  defp retry_later(state) do
    case schedule(state, :look_after, state.backoff) do
      ^state -> state
      scheduled -> %{scheduled | backoff: min(max(2 * state.backoff, @min_backoff), @max_backoff)}
    end
  end

  # There is one timer of a kind at most: the one that ends first.
  defp schedule(%{timers: timers} = state, what, delay) do
    timer = timers[what]

    if timer && (Process.read_timer(timer) || 0) <= delay do
      state
    else
      _ = if timer, do: Process.cancel_timer(timer)
      %{state | timers: Map.put(timers, what, Process.send_after(self(), {:timer, what}, delay))}
    end
  end

  defp warn_once(%{last_warning: sentence} = state, sentence), do: state

  defp warn_once(state, sentence) do
    Log.log(:warning, sentence <> "; trying again")
    %{state | last_warning: sentence}
  end

  # This VM has become a node: with its name it is known where nodes of this host look it up.
  defp named(state) do
    warn_if_exposed()

    with true <- Interface.local(),
         %{server: server} when server != nil <- state,
         {:error, sentence} <- Settings.configure(server, state.open?),
         do: warn_once(state, sentence),
         else: (_ -> log_from(state))
  end

  defp warn_if_exposed do
    spawn(fn ->
      with %{status: :warning} = finding <- Exposed.distribution(Facts.exposed()),
           do: Log.log(:warning, finding.what <> " " <> finding.fix)
    end)
  end

  # If OTP does not call Discovery, the server listens on loopback only until this VM's node is registered.
  defp update_exposure(%{unrouted?: true, server: server} = state) when server != nil do
    case Exposure.open?(Native.status(server).port, state.open? or Lifecycle.registered?()) do
      open? when open? == state.open? ->
        state

      open? ->
        case Settings.configure(server, open?) do
          :ok -> log_from(%{state | open?: open?, last_warning: nil})
          {:error, sentence} -> warn_once(state, sentence)
        end
    end
  end

  defp update_exposure(state), do: state

  ## Events

  defp follow(%{server: nil} = state), do: state

  defp follow(state) do
    Native.follow(state.server, state.unrouted? or Subscribers.any?(state.subscribers))
    state
  end

  defp drain(%{server: nil} = state), do: state

  defp drain(state) do
    {entries, changes, lost, again} = Native.take(state.server)
    _ = log(entries)
    state = if again, do: schedule(state, :drain, @window), else: state
    state = schedule_overflow(update_in(state.subscribers, &Subscribers.notify(&1, changes, lost)))
    if changes == [] and lost == 0, do: state, else: update_exposure(state)
  end

  defp schedule_overflow(state) do
    if Subscribers.missed?(state.subscribers), do: schedule(state, :overflow, @window), else: state
  end

  defp now, do: System.monotonic_time(:millisecond)
end
