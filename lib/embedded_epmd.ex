defmodule EmbeddedEpmd do
  @moduledoc """
  The Erlang port mapper (EPMD) inside the VM.

  Add it to the supervision tree of a release whose `vm.args` names `EmbeddedEpmd.Discovery`:

      children = [EmbeddedEpmd]

  The server itself starts while the VM boots, since the node registers before any application runs. This process
  claims it: it logs its events, starts it again should its thread ever end, and stops it with the application. If the
  VM booted without distribution, as under `iex -S mix`, it starts the server.
  """

  alias EmbeddedEpmd.{Client, Discovery, Native}

  @timeout 5_000

  @typedoc """
  An option of the child, or, under the same name, a key of the application environment:

      config :embedded_epmd, port: 4369

  The environment variables of OTP's daemon come first, then the options, then the application environment. The server
  starts before the options are known, so `:port` and `:addresses` belong into the environment or `config.exs`; as
  options they must not contradict a server that is already running.

    * `:port` - the port to serve, 1 to 65535. `ERL_EPMD_PORT`, or `-epmd_port` of `erl`. Defaults to 4369.
    * `:addresses` - where to listen: a list of IPv4 and IPv6 addresses, as strings or tuples, or one string separated
      by commas. `ERL_EPMD_ADDRESS`. Beside an address that is neither loopback nor any, 127.0.0.1 and ::1 are added,
      since nodes register there. Defaults to `[]`, which is everywhere.
    * `:relaxed` - lets local peers end the registrations of others, as `epmd -stop` and `-kill` do.
      `ERL_EPMD_RELAXED_COMMAND_CHECK`, where empty, `0` and `false` mean no. Defaults to `false`.
    * `:remote_names` - lets remote peers list the names. Defaults to `false`.
    * `:allow` - the networks that may look nodes up, such as `["10.0.0.0/8"]`; local peers always may. Defaults to
      `nil`, which is everybody.
    * `:request_deadline` - milliseconds from a connection to the end of its reply. Defaults to 10000. Linux keeps a
      connection that says nothing to itself for a second; its time starts then.
    * `:max_waiting` - connections that may wait for their request or reply. At the limit the one that has waited
      longest gives way. Defaults to 256.
    * `:max_waiting_per_source` - of these, connections from one remote address. Defaults to 32.
  """
  @type option ::
          {:port, 1..65_535}
          | {:addresses, [String.t() | :inet.ip_address()] | String.t()}
          | {:relaxed, boolean()}
          | {:remote_names, boolean()}
          | {:allow, [String.t()] | nil}
          | {:request_deadline, 100..600_000}
          | {:max_waiting, 1..65_535}
          | {:max_waiting_per_source, 1..65_535}

  @typedoc """
  The state of this VM's server.

    * `:role` - `:serving` when it owns the port, `:joined` when it is registered with another owner, `:searching`
      while it looks for either, `:stopped` when there is no server
    * `:since` - when it took that role
    * `:changes` - how often the role changed
    * `:port` - the port
    * `:addresses` - the addresses it listens on when it serves
    * `:owner` - the address of the owner it joined, or `nil`
    * `:owner_answers` - false while that owner holds the port and answers nobody
    * `:names` - how many names are registered, or `nil` when the owner does not say
  """
  @type status :: %{
          role: :serving | :joined | :searching | :stopped,
          since: DateTime.t() | nil,
          changes: non_neg_integer(),
          port: :inet.port_number() | nil,
          addresses: [String.t()],
          owner: String.t() | nil,
          owner_answers: boolean(),
          names: non_neg_integer() | nil
        }

  @doc """
  The child specification: permanent, and with 5 seconds to stop the server.
  """
  @spec child_spec([option()]) :: Supervisor.child_spec()
  def child_spec(options) do
    %{id: __MODULE__, start: {__MODULE__, :start_link, [options]}, shutdown: 5_000}
  end

  @doc """
  Claims this VM's server, or starts it, and looks after it. One such process runs in a VM.

  Raises an `ArgumentError` for a bad option, which names the option, what is expected and what came.
  """
  @spec start_link([option()]) :: GenServer.on_start()
  defdelegate start_link(options), to: EmbeddedEpmd.Server

  @doc """
  Lists the nodes of this host with their distribution ports, the newest registration first, wherever they are kept.

      EmbeddedEpmd.names()
      #=> {:ok, [%{name: "stage", port: 41234}, %{name: "prod", port: 37111}]}

  Returns `{:error, :stopped}` when this VM has no server, and the error of the look-up when its owner cannot be asked.
  """
  @spec names() :: {:ok, [%{name: String.t(), port: :inet.port_number()}]} | {:error, atom()}
  def names do
    with {:ok, server} <- running(),
         {:ok, names} <- names_of(server) do
      {:ok, Enum.map(names, fn {name, port} -> %{name: name, port: port} end)}
    end
  end

  @doc """
  The state of this VM's server.

      EmbeddedEpmd.status().role
      #=> :serving

  A server that has joined asks its owner for the number of names, for at most 5 seconds.
  """
  @spec status() :: status()
  def status do
    case running() do
      {:ok, server} ->
        status = Native.status(server)

        Map.merge(status, %{
          since: DateTime.from_unix!(status.since, :millisecond),
          names: count(server, status)
        })

      {:error, :stopped} ->
        %{
          role: :stopped,
          since: nil,
          changes: 0,
          port: nil,
          addresses: [],
          owner: nil,
          owner_answers: true,
          names: nil
        }
    end
  end

  defp running do
    with :none <- Discovery.server(), do: {:error, :stopped}
  end

  # An owner that is known not to answer is not waited for.
  defp count(_server, %{owner_answers: false}), do: nil

  defp count(server, _status) do
    with {:ok, names} <- names_of(server), do: length(names), else: ({:error, _} -> nil)
  end

  defp names_of(server) do
    case Native.names(server) do
      :elsewhere ->
        %{owner: owner, port: port} = Native.status(server)
        if owner, do: Client.names(ip(owner), port, @timeout), else: {:error, :searching}

      names ->
        {:ok, names}
    end
  end

  # The owner's address comes as "127.0.0.1:4369" or "[::1]:4369".
  defp ip(owner) do
    [_, host] = Regex.run(~r/^\[?(.*?)\]?:\d+$/, owner)
    {:ok, ip} = :inet.parse_address(String.to_charlist(host))
    ip
  end
end
