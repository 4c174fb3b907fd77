defmodule Support.Watch do
  @moduledoc """
  Runs in a VM of a test: looks other nodes up continuously, as the distribution would, and records which nodes go
  down.
  """

  alias EmbeddedEpmd.Discovery

  # Milliseconds. Many VMs look many names up, so together they begin lookups in each millisecond.
  @pause 100

  @doc "Starts the process in this VM, with no names to look up yet."
  def start do
    starter = self()

    pid =
      spawn(fn ->
        :ok = :net_kernel.monitor_nodes(true)
        Process.register(self(), __MODULE__)
        send(starter, :started)
        watch(%{names: [], found: 0, missed: [], down: [], logged: []})
      end)

    receive do
      :started -> pid
    end
  end

  @doc "Connects to these nodes of 127.0.0.1, and looks their names up from now on. Clears the record."
  def watch_names(names) do
    for name <- names, node = :"#{name}@127.0.0.1", node != node(), do: true = :net_kernel.connect_node(node)
    ask({:watch, names})
  end

  @doc "Also records what this library logs in this VM from now on."
  def log, do: :logger.add_handler(__MODULE__, __MODULE__, %{})

  @doc false
  def log(%{msg: {:report, %{what: text} = report}, level: level, meta: %{domain: [:embedded_epmd]}}, _config),
    do: send(__MODULE__, {:log, level, text, report})

  def log(_event, _config), do: :ok

  @doc """
  The record: how many lookups found their node, which did not and what they got, which nodes went down, and, after
  `log/0`, what was logged.
  """
  def seen, do: ask(:seen)

  defp ask(request) do
    reference = make_ref()
    send(__MODULE__, {request, self(), reference})

    receive do
      {^reference, answer} -> answer
    end
  end

  defp watch(state) do
    receive do
      {{:watch, names}, from, reference} ->
        state = %{state | names: names, found: 0, missed: [], down: []}
        send(from, {reference, :ok})
        watch(state)

      {:seen, from, reference} ->
        send(from, {reference, Map.delete(state, :names)})
        watch(state)

      {:nodedown, node} ->
        watch(%{state | down: [node | state.down]})

      {:log, level, text, report} ->
        watch(%{state | logged: [{level, text, report} | state.logged]})

      {:nodeup, _} ->
        watch(state)
    after
      @pause -> watch(Enum.reduce(state.names, state, &look_up/2))
    end
  end

  defp look_up(name, state) do
    case Discovery.port_please(String.to_charlist(name), {127, 0, 0, 1}) do
      {:port, _, _} -> %{state | found: state.found + 1}
      other -> %{state | missed: [{name, other} | state.missed]}
    end
  end
end
