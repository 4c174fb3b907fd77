defmodule EmbeddedEpmd.Server do
  @moduledoc false
  # Looks after the native server: claims it, takes its log entries to the logger and its changes to the subscribers,
  # and ends when it ends, so that the supervisor starts both again. A crash of this process does not interrupt service;
  # its orderly stop ends it.

  use GenServer

  alias EmbeddedEpmd.{Config, Discovery, Native, Subscribers}

  # How long the native side counts what it leaves out of the log before it says so; milliseconds.
  @window 1_000

  @spec start_link(keyword()) :: GenServer.on_start()
  def start_link(options) do
    config = Config.load(options)
    GenServer.start_link(__MODULE__, {options, config}, name: __MODULE__)
  end

  @doc "Has changes sent to `pid` from now on; returns what they are to be added to."
  @spec subscribe(pid()) :: EmbeddedEpmd.snapshot()
  def subscribe(pid), do: GenServer.call(__MODULE__, {:subscribe, pid})

  @spec unsubscribe(pid()) :: :ok
  def unsubscribe(pid), do: GenServer.call(__MODULE__, {:unsubscribe, pid})

  @impl GenServer
  def init({options, config}) do
    Process.flag(:trap_exit, true)

    with {:ok, server} <- Discovery.ensure_server(options),
         :ok <- same_place(server, config),
         {:ok, :ok} <- Native.configure(server, config),
         {:ok, :ok} <- Native.claim(server, self()) do
      {:ok, follow(%{server: server, subscribers: Subscribers.new()}), {:continue, :take}}
    else
      {:error, reason} -> {:stop, reason}
    end
  end

  @impl GenServer
  def handle_continue(:take, state), do: {:noreply, take(state)}

  @impl GenServer
  def handle_call({:subscribe, pid}, _from, state) do
    # Changes are kept before the snapshot is made: nothing falls in between.
    Native.follow(state.server, true)
    {number, role, nodes} = Native.snapshot(state.server)
    nodes = for {name, port, creation} <- nodes, do: %{name: name, port: port, creation: creation}
    {:reply, %{role: role, nodes: nodes}, update_in(state.subscribers, &Subscribers.add(&1, pid, number))}
  end

  def handle_call({:unsubscribe, pid}, _from, state) do
    {:reply, :ok, follow(update_in(state.subscribers, &Subscribers.remove(&1, pid)))}
  end

  @impl GenServer
  def handle_info({:embedded_epmd, :events}, state), do: {:noreply, take(state)}

  def handle_info(:overflow, state) do
    {:noreply, retell(update_in(state.subscribers, &Subscribers.tell_missed/1))}
  end

  def handle_info({:embedded_epmd, :stopped, reason}, state) do
    {:stop, {:native_server_ended, reason}, take(state)}
  end

  def handle_info({:DOWN, _ref, :process, pid, _reason}, state) do
    {:noreply, follow(update_in(state.subscribers, &Subscribers.remove(&1, pid)))}
  end

  def handle_info(_other, state), do: {:noreply, state}

  @impl GenServer
  def terminate(reason, state) when reason in [:normal, :shutdown], do: Native.stop(state.server)
  def terminate({:shutdown, _}, state), do: Native.stop(state.server)
  def terminate(_crash, _state), do: :ok

  # Where to listen cannot change any more: it was decided while the VM booted.
  defp same_place(server, config) do
    case Native.status(server) do
      %{port: port} when port == config.port ->
        :ok

      %{port: port} ->
        {:error, "the server runs on port #{port}, but the option :port says #{config.port}"}
    end
  end

  defp follow(state) do
    Native.follow(state.server, Subscribers.wanted?(state.subscribers))
    state
  end

  defp take(state) do
    {entries, changes, lost, again} = Native.take(state.server)
    Enum.each(entries, &log/1)
    if again, do: Process.send_after(self(), {:embedded_epmd, :events}, @window)
    retell(update_in(state.subscribers, &Subscribers.tell(&1, changes, lost)))
  end

  defp retell(state) do
    if Subscribers.missed?(state.subscribers), do: Process.send_after(self(), :overflow, @window)
    state
  end

  ## Logging

  defp log({level, text, fields}) do
    report = Map.new([{:what, text} | fields])
    metadata = Map.merge(Map.new(fields), %{domain: [:embedded_epmd], report_cb: &__MODULE__.format/1})
    :logger.log(level, report, metadata)
  end

  @doc false
  # A report as one line.
  def format(%{what: text} = report) do
    fields = for {key, value} <- Map.delete(report, :what), do: [" ", Atom.to_string(key), "=", value]
    {~c"embedded_epmd: ~ts~ts", [text, fields]}
  end
end
