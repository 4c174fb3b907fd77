defmodule EmbeddedEpmd.Config do
  @moduledoc false
  # Every source of settings to one validated map. It also runs while the VM boots, so it uses plain functions only:
  # no protocols, no Logger, no processes.
  #
  # A setting comes from, in this order: the environment (what the C daemon reads, and what `erl` makes of it), the
  # options of the child, the application environment, the default.

  alias EmbeddedEpmd.{Endpoints, Environment}

  @defaults %{
    port: 4369,
    addresses: [],
    relaxed: false,
    remote_names: false,
    allow: nil,
    owners: %{},
    request_deadline: 10_000,
    max_waiting: 256,
    max_waiting_per_source: 32,
    descriptor_share: 40,
    hand_over: true,
    standbys: 2,
    log_level: :notice,
    endpoints: %{},
    advertise: []
  }

  @log_levels [:none, :error, :warning, :notice, :info, :debug]
  @options :maps.keys(@defaults)

  @doc "The settings, or an `ArgumentError` that names the setting, what is expected and what came."
  @spec load(keyword()) :: EmbeddedEpmd.Native.config()
  def load(options \\ []) do
    known!(options)

    # A release has loaded it before it boots. Elsewhere its environment, from -config or a flag, comes with the loading.
    _ = :application.load(:embedded_epmd)

    settings = :maps.map(fn key, _ -> get(key, options) end, @defaults)
    {hand_over, users, groups} = trusted(settings.hand_over)

    :maps.merge(settings, %{
      hand_over: hand_over,
      trusted_users: users,
      trusted_groups: groups,
      inet6: Environment.family() == :inet6,
      port_chosen: given(:port, options) != :none,
      addresses_chosen: given(:addresses, options) != :none
    })
  end

  # Whether there is a hand-over, and with whose processes beside those of this user.
  defp trusted(value) when is_boolean(value), do: {value, [], []}
  defp trusted(lists), do: {true, :proplists.get_value(:users, lists, []), :proplists.get_value(:groups, lists, [])}

  @doc "One setting, as `load/1` has it."
  @spec get(atom(), keyword()) :: term()
  def get(key, options) do
    case given(key, options) do
      :none -> :maps.get(key, @defaults)
      {:ok, source, value} -> parse!(key, strings(key, value), source)
    end
  end

  @doc "Where a setting comes from, as its user would call it."
  @spec source(atom(), keyword()) :: String.t()
  def source(key, options) do
    case given(key, options) do
      {:ok, source, _} -> source
      :none -> "the default of " <> text(key)
    end
  end

  @doc "The level, or an `ArgumentError` that says what is expected."
  @spec log_level!(term()) :: :none | :logger.level()
  def log_level!(level), do: parse!(:log_level, level, "the log level")

  @doc "For how long another level holds, in milliseconds, or an `ArgumentError` that says what is expected."
  @spec log_time!(term()) :: pos_integer()
  def log_time!([]), do: 60_000
  def log_time!(for: time) when is_integer(time) and time in 1..86_400_000, do: time
  def log_time!(other), do: fail!("the time of a log level", "[for: MILLISECONDS], from 1 to 86400000", other)

  defp known!(options) do
    if not :erlang.is_list(options) or not :lists.all(fn option -> match?({_, _}, option) end, options),
      do: fail!("EmbeddedEpmd", "given a keyword list of options", options)

    case :lists.filter(fn {key, _} -> not :lists.member(key, @options) end, options) do
      [] -> :ok
      [{key, _} | _] -> fail!(text(key), "one of the options " <> text(@options), key)
    end
  end

  defp given(key, options) do
    with :none <- environment(key), :none <- option(key, options) do
      case :application.get_env(:embedded_epmd, key) do
        {:ok, value} -> {:ok, "config :embedded_epmd, " <> text(key), value}
        :undefined -> :none
      end
    end
  end

  defp option(key, options) do
    case :lists.keyfind(key, 1, options) do
      {^key, value} -> {:ok, "the option " <> text(key), value}
      false -> :none
    end
  end

  # `erl` turns ERL_EPMD_PORT into -epmd_port, which is what OTP's own client reads.
  defp environment(:port) do
    case :init.get_argument(:epmd_port) do
      {:ok, [[value | _] | _]} ->
        {:ok, "ERL_EPMD_PORT (-epmd_port)", :erlang.list_to_binary(value)}

      _ ->
        variable("ERL_EPMD_PORT")
    end
  end

  # An empty one says nothing of addresses; it must not open those that the configuration left out.
  defp environment(:addresses), do: with({:ok, _, ""} <- variable("ERL_EPMD_ADDRESS"), do: :none)
  defp environment(:relaxed), do: variable("ERL_EPMD_RELAXED_COMMAND_CHECK")
  defp environment(_), do: :none

  defp variable(name) do
    case :os.getenv(:erlang.binary_to_list(name)) do
      false -> :none
      value -> {:ok, name, :unicode.characters_to_binary(value)}
    end
  end

  # Users and groups may be numbers, a list of which is no string.
  defp strings(key, value) when key in [:hand_over, :owners], do: value
  defp strings(_key, value), do: strings(value)

  # What `-embedded_epmd` of vm.args and an Erlang configuration have for a string is a list of characters.
  defp strings([_ | _] = value) do
    if :io_lib.printable_unicode_list(value),
      do: :unicode.characters_to_binary(value),
      else: :lists.map(fn element -> strings(element) end, value)
  end

  defp strings(value) when is_tuple(value),
    do: :erlang.list_to_tuple(:lists.map(&strings/1, :erlang.tuple_to_list(value)))

  defp strings(value) when is_map(value), do: :maps.from_list(:lists.map(&strings/1, :maps.to_list(value)))
  defp strings(value), do: value

  defp parse!(:port, value, source) do
    port = if is_binary(value), do: integer(value), else: value

    if is_integer(port) and port in 1..65_535,
      do: port,
      else: fail!(source, "a port from 1 to 65535", value)
  end

  defp parse!(:addresses, value, source) when is_binary(value) do
    parse!(:addresses, :string.lexemes(value, [?,, ?\s]), source)
  end

  defp parse!(:addresses, value, source) when is_list(value) do
    :lists.map(fn address -> address!(address, source) end, value)
  end

  defp parse!(:addresses, value, source),
    do: fail!(source, "a list of IPv4 and IPv6 addresses", value)

  # The C daemon takes any value for true. Nobody who writes "false" means that.
  defp parse!(:relaxed, value, _) when value in ["", "0", "false"], do: false
  defp parse!(:relaxed, value, _) when is_binary(value), do: true

  defp parse!(key, value, _) when key in [:relaxed, :remote_names, :hand_over] and is_boolean(value),
    do: value

  defp parse!(key, value, source) when key in [:relaxed, :remote_names],
    do: fail!(source, "true or false", value)

  defp parse!(:hand_over, value, source) do
    expected = "true, false, or lists of names or numbers such as [users: [\"prod\"], groups: [\"epmd\"]]"

    if is_list(value) and
         :lists.all(fn entry -> match?({key, [_ | _]} when key in [:users, :groups], entry) end, value),
       do: :lists.map(fn {key, names} -> {key, named!(names, expected, value, source)} end, value),
       else: fail!(source, expected, value)
  end

  defp parse!(:owners, value, source) do
    expected =
      "a map of nodes' names or patterns to users, by their names or numbers, " <>
        "such as %{\"prod\" => \"prod\", \"billing_*\" => [\"billing\", 1001]}"

    if is_map(value),
      do: :maps.from_list(:lists.map(&owner!(&1, expected, source), :maps.to_list(value))),
      else: fail!(source, expected, value)
  end

  defp parse!(:standbys, value, source) do
    if is_integer(value) and value in 1..8, do: value, else: fail!(source, "a number from 1 to 8", value)
  end

  defp parse!(:allow, nil, _), do: nil

  defp parse!(:allow, value, source) do
    if is_list(value) and :lists.all(fn network -> is_binary(network) end, value),
      do: value,
      else: fail!(source, "nil or a list of networks such as \"10.0.0.0/8\"", value)
  end

  defp parse!(:log_level, value, source) do
    if :lists.member(value, @log_levels), do: value, else: fail!(source, "one of " <> text(@log_levels), value)
  end

  defp parse!(:endpoints, value, source) do
    case Endpoints.parse(value) do
      {:ok, endpoints} -> endpoints
      {:error, expected, got} -> fail!(source, expected, got)
    end
  end

  defp parse!(:advertise, [], _), do: []
  defp parse!(:advertise, [port: port] = value, _) when is_integer(port) and port in 1..65_535, do: value
  defp parse!(:advertise, value, source), do: fail!(source, "[port: PORT], with a port from 1 to 65535", value)

  defp parse!(:request_deadline, value, source) do
    if is_integer(value) and value in 100..600_000,
      do: value,
      else: fail!(source, "milliseconds from 100 to 600000", value)
  end

  defp parse!(:descriptor_share, value, source) do
    if is_integer(value) and value in 1..95, do: value, else: fail!(source, "a percentage from 1 to 95", value)
  end

  defp parse!(_, value, source) do
    if is_integer(value) and value in 1..65_535,
      do: value,
      else: fail!(source, "a number from 1 to 65535", value)
  end

  # Where the name is a list of characters, a list for the user is one as well.
  defp owner!({name, users} = entry, expected, source) when is_list(name) do
    case {strings(name), strings(users)} do
      {name, user} when is_binary(name) and is_binary(user) -> owner!({name, user}, expected, source)
      {name, _} when is_binary(name) -> owner!({name, users}, expected, source)
      _ -> fail!(source, expected, entry)
    end
  end

  defp owner!({name, [_ | _] = users} = entry, expected, source) when is_binary(name),
    do: {name, named!(users, expected, entry, source)}

  defp owner!({name, user}, expected, source) when is_binary(name) and user != [],
    do: owner!({name, [user]}, expected, source)

  defp owner!(entry, expected, source), do: fail!(source, expected, entry)

  # Users or groups as the native side wants them: names, and numbers as text.
  defp named!(names, expected, value, source) do
    :lists.map(
      fn name ->
        case if(is_list(name), do: strings(name), else: name) do
          name when is_binary(name) -> name
          number when is_integer(number) and number >= 0 -> :erlang.integer_to_binary(number)
          _ -> fail!(source, expected, value)
        end
      end,
      names
    )
  end

  defp integer(binary) do
    case :string.to_integer(binary) do
      {integer, ""} -> integer
      _ -> :error
    end
  end

  defp address!(address, source) do
    parsed =
      cond do
        is_tuple(address) ->
          if :inet.ntoa(address) != {:error, :einval}, do: {:ok, address}, else: :error

        is_binary(address) ->
          :inet.parse_strict_address(:erlang.binary_to_list(address))

        true ->
          :error
      end

    case parsed do
      {:ok, ip} -> :erlang.list_to_binary(:inet.ntoa(ip))
      _ -> fail!(source, "IPv4 and IPv6 addresses", address)
    end
  end

  @spec fail!(String.t(), String.t(), term()) :: no_return()
  defp fail!(source, expected, got) do
    :erlang.error(
      ArgumentError.exception("embedded_epmd: " <> source <> " must be " <> expected <> ", got: " <> text(got))
    )
  end

  defp text(term) when is_atom(term), do: :erlang.atom_to_binary(term)
  defp text(term) when is_binary(term), do: "\"" <> term <> "\""
  defp text(term), do: :unicode.characters_to_binary(:io_lib.format(~c"~tp", [term]))
end
