defmodule EmbeddedEpmd.Cluster do
  @moduledoc """
  Connects this node to the nodes of its host, as they register.

      children = [EmbeddedEpmd, {EmbeddedEpmd.Cluster, nodes: ["app*"]}]

  It learns of a node when the node registers (`EmbeddedEpmd.subscribe/1`), and connects at once. Every 5 seconds it
  tries the nodes that are registered and not connected. If this VM has neither the table nor a copy of it (`:table`
  of `t:EmbeddedEpmd.status/0`), it learns of nodes only then. It never disconnects a node.

  It expects the nodes to have the host part of this node's name: with long names `app1@db.example.com`, with short
  ones `app1@db`. Nodes that were started under another host name are not reached. Nothing happens while this VM is
  not a node. Each name that matches becomes an atom. After 10000 different names in the life of the process, further
  ones are ignored with a warning.
  """

  use GenServer

  # How often nodes that are not connected are tried; milliseconds.
  @retry_interval 5_000
  # How many names may become atoms: otherwise whoever registers names could exhaust the VM's atoms.
  @max_names 10_000

  @typedoc """
    * `:nodes` - the names to connect to, without their hosts: a list of patterns, in which `*` stands for any
      characters and `?` for one, or of regular expressions. Defaults to `["*"]`, which matches all.
    * `:name` - the name of the process. Defaults to `EmbeddedEpmd.Cluster`.
  """
  @type option :: {:nodes, [String.t() | Regex.t()]} | {:name, GenServer.name()}

  @doc """
  Starts the process. Raises an `ArgumentError` for a bad option; the message names the option, what is expected and
  what came.
  """
  @spec start_link([option()]) :: GenServer.on_start()
  def start_link(options \\ []) do
    for {key, value} <- options, key not in [:nodes, :name] do
      raise ArgumentError, "expected the options :nodes and :name, got #{inspect([{key, value}])}"
    end

    patterns = patterns!(Keyword.get(options, :nodes, ["*"]))
    GenServer.start_link(__MODULE__, patterns, name: Keyword.get(options, :name, __MODULE__))
  end

  defp patterns!([_ | _] = nodes), do: Enum.map(nodes, &pattern!(&1, nodes))
  defp patterns!(nodes), do: bad_nodes!(nodes)

  defp pattern!(%Regex{} = regex, _nodes), do: regex

  defp pattern!(text, nodes) when is_binary(text) do
    if text == "" or String.contains?(text, "@"), do: bad_nodes!(nodes)
    text = text |> Regex.escape() |> String.replace("\\*", ".*") |> String.replace("\\?", ".")
    Regex.compile!("\\A#{text}\\z", "su")
  end

  defp pattern!(_, nodes), do: bad_nodes!(nodes)

  defp bad_nodes!(nodes) do
    raise ArgumentError,
          "nodes: expected a list of patterns such as \"app*\", without hosts, or of regular expressions, " <>
            "got #{inspect(nodes)}"
  end

  @impl GenServer
  def init(patterns) do
    state = %{patterns: patterns, names: MapSet.new(), connecting: %{}, subscription: nil, warned?: false}
    {:ok, state, {:continue, :retry}}
  end

  @impl GenServer
  def handle_continue(:retry, state), do: {:noreply, connect_all(state)}

  @impl GenServer
  def handle_info(:retry, state), do: {:noreply, connect_all(state)}
  def handle_info({:embedded_epmd, {:registered, %{name: name}}}, state), do: {:noreply, connect(state, name)}

  def handle_info({:DOWN, reference, :process, _, _}, %{subscription: reference} = state),
    do: {:noreply, %{state | subscription: nil}}

  def handle_info({:DOWN, _, :process, pid, _}, state),
    do: {:noreply, %{state | connecting: Map.delete(state.connecting, pid)}}

  def handle_info(_other, state), do: {:noreply, state}

  # The subscription ends with the supervised process, so it may have to be renewed.
  defp connect_all(state) do
    Process.send_after(self(), :retry, @retry_interval)
    state = subscribe(state)

    case EmbeddedEpmd.names() do
      {:ok, nodes} -> Enum.reduce(nodes, state, &connect(&2, &1.name))
      {:error, _} -> state
    end
  end

  defp subscribe(%{subscription: nil} = state) do
    case EmbeddedEpmd.subscribe() do
      {:ok, _} -> %{state | subscription: Process.monitor(EmbeddedEpmd.Server)}
      {:error, :stopped} -> state
    end
  end

  defp subscribe(state), do: state

  defp connect(state, name) do
    cond do
      not (Node.alive?() and node_name?(name) and Enum.any?(state.patterns, &Regex.match?(&1, name))) -> state
      name in state.names or MapSet.size(state.names) < @max_names -> connect_node(state, name)
      true -> warn_once(state)
    end
  end

  # Any local program may register any name. An atom has 255 characters at most.
  defp node_name?(name) do
    String.valid?(name) and not String.contains?(name, "@") and String.length(name) + String.length(host()) < 255
  end

  defp host do
    [_, host] = node() |> Atom.to_string() |> String.split("@")
    host
  end

  defp connect_node(state, name) do
    node = :"#{name}@#{host()}"
    state = update_in(state.names, &MapSet.put(&1, name))

    if node in [node() | Node.list(:connected)] or node in Map.values(state.connecting) do
      state
    else
      # Node.connect/1 may block for the distribution's whole time-out.
      {pid, _} = spawn_monitor(fn -> Node.connect(node) end)
      put_in(state.connecting[pid], node)
    end
  end

  defp warn_once(%{warned?: true} = state), do: state

  defp warn_once(state) do
    text = ~c"embedded_epmd: more than ~b names fit the patterns of the cluster; others are left out"
    :logger.warning(text, [@max_names])
    %{state | warned?: true}
  end
end
