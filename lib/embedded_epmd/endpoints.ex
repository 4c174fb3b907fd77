defmodule EmbeddedEpmd.Endpoints do
  @moduledoc """
  The addresses and ports of nodes that no EPMD can look up: behind a mapped port, a tunnel or a mesh.

      config :embedded_epmd,
        endpoints: [
          {"app@db.internal", {"10.0.0.2", 9100}},
          {"*@edge.internal", {MyApp.Mesh, :endpoint}}
        ]

  Each entry has the full name of a node, or a pattern in which `*` stands for any characters, and an endpoint. The
  first that matches counts. An endpoint is

    * `{host, port}` - the host is a name or an address, as a string or a tuple. A name is resolved in the address
      family of the distribution.
    * `port` - a port on the host of the node's name.
    * `{module, function}` - a function of yours. It gets the node's name as a string, and returns one of the other
      two, or `nil` to leave the node to the next entry that matches. It is called during each connection attempt, so it
      must be quick: if it takes longer than a second, or fails, that is logged and counts as `nil`.

  Instead of the list, you can give one `{module, function}` for all nodes. A node without a match is looked up with the
  EPMD of its host. The setting is read for each connection, so you can change it at any time.
  """

  # A lookup runs inside `net_kernel`, whose end would end the VM. So this code never raises, and keeps to the rule for
  # what runs while the VM boots (CONTRIBUTING.md).

  alias EmbeddedEpmd.Boot.{Log, Pattern}

  @type endpoint ::
          {host :: String.t() | :inet.ip_address(), :inet.port_number()}
          | :inet.port_number()
          | {module(), function :: atom()}
  @type setting :: [{pattern :: String.t(), endpoint()}] | {module(), function :: atom()}

  # For a call of the user's function; milliseconds.
  @timeout 1_000

  @doc false
  # The setting as a list; or the error: what is expected, and what came.
  @spec parse(term()) :: {:ok, [{String.t(), endpoint()}]} | {:error, expected :: String.t(), got :: term()}
  def parse({module, function} = endpoint) when is_atom(module) and is_atom(function), do: {:ok, [{"*", endpoint}]}

  def parse(endpoints) when is_list(endpoints) do
    case :lists.dropwhile(&entry?/1, endpoints) do
      [] ->
        {:ok, endpoints}

      [wrong | _] ->
        {:error,
         "a list of nodes, such as \"app@db.internal\" or \"*@db.internal\", each with {host, port}, a port, or {module, function}",
         wrong}
    end
  end

  def parse(other), do: {:error, "a list of nodes with endpoints, or {module, function}", other}

  defp entry?({pattern, endpoint}), do: pattern?(pattern) and endpoint?(endpoint)
  defp entry?(_other), do: false

  defp pattern?(pattern) do
    is_binary(pattern) and
      (:binary.match(pattern, "*") != :nomatch or match?([_, _], :binary.split(pattern, "@", [:global])))
  end

  defp endpoint?(port) when is_integer(port), do: port in 1..65_535
  defp endpoint?({host, port}) when is_integer(port), do: host?(host) and port in 1..65_535
  defp endpoint?({module, function}), do: is_atom(module) and is_atom(function)
  defp endpoint?(_other), do: false

  defp host?(host) when is_tuple(host), do: :inet.ntoa(host) != {:error, :einval}
  defp host?(host), do: is_binary(host) and host != ""

  @doc false
  # The address and port of a node by the setting, as `parse/1` returns it; `:none` if that does not name it.
  @spec find(setting(), charlist(), charlist(), :inet | :inet6) ::
          {:ok, :inet.ip_address(), :inet.port_number()} | :none | {:error, :inet.posix()}
  def find(endpoints, name, host, family) do
    first(endpoints, :unicode.characters_to_binary([name, ?@, host]), host, family)
  end

  defp first([], _node, _host, _family), do: :none

  defp first([{pattern, endpoint} | endpoints], node, host, family) do
    with true <- Pattern.matches?(node, pattern),
         {to, port} <- target(endpoint, node, host) do
      with {:ok, ip} <- :inet.getaddr(to, family), do: {:ok, ip, port}
    else
      _ -> first(endpoints, node, host, family)
    end
  end

  defp target(port, _node, host) when is_integer(port), do: {host, port}

  defp target({to, port}, _node, _host) when is_integer(port),
    do: {if(is_binary(to), do: :unicode.characters_to_list(to), else: to), port}

  defp target({module, function}, node, host), do: call_function(module, function, node, host)

  defp call_function(module, function, node, host) do
    {pid, monitor} = :erlang.spawn_monitor(fn -> :erlang.exit({:endpoint, apply(module, function, [node])}) end)

    receive do
      {:DOWN, ^monitor, _, _, {:endpoint, answer}} -> check_answer(answer, module, function, node, host)
      {:DOWN, ^monitor, _, _, reason} -> log_error(message(module, function, node, [" failed: ", format(reason)]))
    after
      @timeout ->
        :erlang.demonitor(monitor, [:flush])
        :erlang.exit(pid, :kill)
        log_error(message(module, function, node, " took more than a second"))
    end
  end

  defp check_answer(nil, _module, _function, _node, _host), do: :none

  defp check_answer(answer, module, function, node, host) do
    # A function must not return another function.
    if endpoint?(answer) and not match?({_, name} when is_atom(name), answer),
      do: target(answer, node, host),
      else:
        log_error(message(module, function, node, [" must return {host, port}, a port, or nil, got: ", format(answer)]))
  end

  defp message(module, function, node, what) do
    ["endpoints: ", format({module, function}), " for \"", node, "\"", what]
  end

  defp format(term), do: :io_lib.format(~c"~tp", [term])

  # The lookup continues with the next entry.
  defp log_error(sentence) do
    Log.log(:error, sentence)
    :none
  end
end
