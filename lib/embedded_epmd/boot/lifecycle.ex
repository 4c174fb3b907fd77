defmodule EmbeddedEpmd.Boot.Lifecycle do
  @moduledoc false
  # Starts, restarts and stops this VM's native server. A server ends with a process, its keeper. If OTP calls
  # `Discovery`, the keeper is `net_sup`: the server lives as long as the distribution, whatever happens to the
  # applications.

  alias EmbeddedEpmd.Boot.{Client, Config, Environment, Exposure, Interface, Log, Ports, ServiceManager}
  alias EmbeddedEpmd.Native

  # The name of the supervised process, which is above this module.
  @supervised :"Elixir.EmbeddedEpmd.Server"
  @server {__MODULE__, :server}
  @node {__MODULE__, :node}
  @planned {__MODULE__, :planned}
  @options {__MODULE__, :options}
  @told {__MODULE__, :told}
  @ready {__MODULE__, :ready}
  # How often a running node retries to register after a restart of the server, and the pause between; milliseconds.
  @attempts 20
  @retry_interval 50

  @doc """
  The server that was started last. It may have ended: a lookup in it tells so, and need not ask first. With
  `:fixed_port` all nodes are expected at the same port, and OTP's client answers lookups.
  """
  @spec latest() :: {Native.server(), :fixed_port | :ports} | :none
  def latest, do: :persistent_term.get(@server, :none)

  @doc "The server, if one has been started and still runs."
  @spec server() :: {:ok, Native.server()} | :none
  def server do
    case latest() do
      :none -> :none
      {server, _} -> if running?(server), do: {:ok, server}, else: :none
    end
  end

  @doc "Whether this server runs."
  @spec running?(Native.server()) :: boolean()
  def running?(server) do
    Native.status(server).role != :stopped
  rescue
    # Native raises if its library was reloaded since the server started, or is not loaded at all.
    _ in [ArgumentError, ErlangError] -> false
  end

  @doc "The port of the server or, if none runs, of the settings. Raises an `ArgumentError` if these are not valid."
  @spec port() :: :inet.port_number()
  def port do
    case server() do
      {:ok, server} -> Native.status(server).port
      :none -> Config.load(options()).port
    end
  end

  @doc "Stores the options of the child, for every server that starts from now on."
  @spec put_options(keyword()) :: :ok
  def put_options(options), do: :persistent_term.put(@options, options)

  @spec options() :: keyword()
  def options, do: :persistent_term.get(@options, [])

  @doc "Says whether this VM is ready, to this server and to every one that starts from now on."
  @spec put_ready(boolean()) :: :ok
  def put_ready(ready?) do
    :persistent_term.put(@ready, ready?)
    with {:ok, server} <- server(), do: tell_ready(server)
    :ok
  end

  # It may be said while a server starts, or by two processes at a time: what was said last holds.
  defp tell_ready(server) do
    ready? = :persistent_term.get(@ready, false)
    Native.put_ready(server, ready?)
    if :persistent_term.get(@ready, false) == ready?, do: :ok, else: tell_ready(server)
  end

  @doc "Says how many nodes the cluster of this VM expects, and how many of these are connected."
  @spec put_cluster(non_neg_integer(), non_neg_integer()) :: :ok
  def put_cluster(expected, connected) do
    with {:ok, server} <- server(), do: Native.put_cluster(server, expected, connected)
    :ok
  end

  @doc "Warns of each setting that is ignored, once."
  @spec tell_ignored() :: :ok
  def tell_ignored do
    told = :persistent_term.get(@told, [])

    case Config.ignored() -- told do
      [] ->
        :ok

      sentences ->
        :persistent_term.put(@told, sentences ++ told)
        :lists.foreach(fn sentence -> Log.log(:warning, sentence) end, sentences)
    end
  end

  @doc """
  Starts the server of a VM that becomes a node, and tells the supervised process. The server ends with `keeper`.

  If the VM has a server, stops it and waits for its end first.
  """
  @spec start(pid()) :: {:ok, Native.server()} | {:error, String.t()}
  def start(keeper) do
    stop()

    with :ok <- load(),
         {:ok, config} <- config(),
         :ok <- Ports.check(config.ports),
         :ok <- Interface.choose(Environment.host(), config.local),
         {:ok, server} <- start(config, keeper) do
      tell_ignored()
      with pid when is_pid(pid) <- :erlang.whereis(@supervised), do: send(pid, {:embedded_epmd, :started})
      {:ok, server}
    end
  end

  @doc """
  The server of this VM. If none runs and the VM needs one, starts it; `:none` if it needs none.

  If OTP calls `Discovery`, only a node needs a server. If it does not, and cannot be made to (before 27.2), the VM
  always needs one: its node will register over TCP, as a stock node does, without notice.

  OTP is made to call it only if the library can be loaded. In an escript, or with a library for another machine, the
  node then starts with OTP's client.
  """
  @spec ensure() :: {:ok, Native.server()} | :none | {:error, String.t()}
  def ensure do
    with :none <- server() do
      cond do
        Environment.stopping?() or Environment.client?() -> :none
        Environment.routed?() -> if Environment.distributed?(), do: start_again(), else: :none
        true -> route()
      end
    end
  end

  defp route do
    with :ok <- load(),
         do: if(not Environment.distributed?() and Environment.route(), do: :none, else: start_unrouted())
  end

  defp start_again do
    with keeper when is_pid(keeper) <- :erlang.whereis(:net_sup),
         :ok <- drop_references(keeper),
         :ok <- load(),
         {:ok, config} <- config(),
         {:ok, server} <- start(config, keeper) do
      register_again(server)
      {:ok, server}
    else
      :undefined -> :none
      {:error, sentence} -> {:error, sentence}
    end
  end

  # A server without references ends. If the keeper started it, a reference may still be on the keeper's heap.
  defp drop_references(keeper) do
    :persistent_term.erase(@server)
    :erlang.garbage_collect(keeper)
    :ok
  end

  defp start_unrouted do
    with {:ok, config} <- config(),
         # Nobody tells us when it becomes a node.
         :ok <- if(Environment.distributed?(), do: :ok, else: Interface.choose(:unknown, config.local)),
         do: start(Exposure.limit(config, Exposure.open?(config.port, registered?())), :erlang.whereis(:kernel_sup))
  end

  @doc "Stops the server, if there is one, and waits for its end."
  @spec stop() :: :ok
  def stop do
    with {:ok, server} <- server(), do: Native.stop(server, Environment.stopping?())
    :ok
  end

  @doc "The port that the node is to listen on, 0 for any. `name` is its name without the host."
  @spec listen_port(String.t()) :: {:ok, :inet.port_number()} | {:error, String.t()}
  def listen_port(name) do
    with {server, :ports} <- latest(),
         {:ok, range} <- read(fn -> Config.get(:ports, options()) end) do
      :persistent_term.put(@planned, {range, :erlang.whereis(:net_kernel)})
      if range == nil, do: {:ok, 0}, else: Ports.plan(name, range, Native.status(server).port)
    else
      {:error, sentence} -> {:error, sentence}
      _ -> {:ok, 0}
    end
  end

  @doc """
  The setting `:ports` as it was when the node got its port, and the `net_kernel` that listens there. `:none` if no node
  of this VM has asked for a port.
  """
  @spec planned() :: {Ports.range() | nil, pid() | :undefined} | :none
  def planned, do: :persistent_term.get(@planned, :none)

  @doc """
  Registers the local node, for as long as its `net_kernel` lives. If the server is restarted meanwhile, the new one
  registers it again.
  """
  @spec register(String.t(), :inet.port_number()) :: {:ok, pos_integer()} | {:error, atom() | String.t()}
  def register(name, port) do
    registrant = with :undefined <- :erlang.whereis(:net_kernel), do: self()

    case with({:ok, server} <- server(), do: register_at(server, {name, port, nil, registrant})) do
      {:ok, creation} ->
        :persistent_term.put(@node, {name, port, creation, registrant})
        {:ok, creation}

      {:error, :already_registered} ->
        {:error, :already_registered}

      failed ->
        # With a fixed port the node runs all the same, and a later server registers it.
        :persistent_term.put(@node, {name, port, nil, registrant})
        with :none <- failed, do: {:error, :stopped}
    end
  end

  @doc "Whether the node has been registered by `register/2`."
  @spec registered?() :: boolean()
  def registered?, do: registered_port() != :none

  @doc "The port with which the node has been registered by `register/2`."
  @spec registered_port() :: :inet.port_number() | :none
  def registered_port do
    case :persistent_term.get(@node, :none) do
      # Otherwise the registration is that of a node that was stopped.
      {_name, port, _creation, registrant} -> if :erlang.whereis(:net_kernel) == registrant, do: port, else: :none
      :none -> :none
    end
  end

  # The node keeps the creation that it booted with. The owner may not have seen the end of the last registration yet.
  defp register_again(server, attempts \\ @attempts) do
    with {_, _, _, registrant} = node <- :persistent_term.get(@node, :none),
         true <- :erlang.whereis(:net_kernel) == registrant,
         {:error, :duplicate_name} when attempts > 0 <- register_at(server, node) do
      :timer.sleep(@retry_interval)
      register_again(server, attempts - 1)
    end
  end

  defp register_at(server, {name, port, creation, registrant}),
    do: prefix_error(Native.register(server, name, port, Client.versions(), creation, registrant))

  defp load do
    case Native.load() do
      :ok ->
        :ok

      {:error, {file, reason}} ->
        {:error,
         :unicode.characters_to_binary([
           "embedded_epmd: the native library ",
           file,
           " cannot be loaded: ",
           reason,
           if(:init.get_argument(:escript) == :error and not in_archive?(file),
             do: "; rebuild the release for this machine (mix deps.compile embedded_epmd --force, then mix release)",
             else: "; an escript cannot contain it: its node uses the EPMD that it finds, or make it a release"
           )
         ])}
    end
  end

  # A file cannot have others below it, unless it is an archive.
  defp in_archive?(file) do
    case :filename.dirname(file) do
      ^file -> false
      folder -> match?({:ok, _}, :prim_file.read_file(folder)) or in_archive?(folder)
    end
  end

  @doc "The settings that hold now."
  @spec config() :: {:ok, Native.config()} | {:error, String.t()}
  def config, do: read(fn -> Config.load(options()) end)

  defp read(settings) do
    {:ok, settings.()}
  rescue
    error in ArgumentError -> {:error, error.message}
  end

  defp start(config, keeper) do
    with {:ok, server} <- prefix_error(Native.start(config, keeper)) do
      :persistent_term.put(@server, {server, ports()})
      tell_ready(server)
      ServiceManager.forget(Native.passed(server))
      {:ok, server}
    end
  end

  # Stored with the server, since asking `init` takes longer than a lookup in memory.
  defp ports, do: if(:erl_epmd.listen_port_please(~c"", ~c"") == {:ok, 0}, do: :ports, else: :fixed_port)

  defp prefix_error({:error, {_, sentence}}), do: {:error, "embedded_epmd: " <> sentence}
  defp prefix_error(result), do: result
end
