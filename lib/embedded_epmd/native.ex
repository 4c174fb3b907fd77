defmodule EmbeddedEpmd.Native do
  @moduledoc false
  # The NIFs of native/epmd_nif.
  #
  # There is no @on_load: on OTP 25, in a release, such handlers run after the distribution has started. So a reload
  # of the module would replace the NIFs by the stubs below. That is why the module is sticky once it has been loaded.

  @compile {:autoload, false}

  @type server :: reference()
  @type config :: map()
  @type reason :: atom() | {atom(), String.t()}
  @type entry :: {:logger.level(), String.t(), [{atom(), String.t()}]}
  @type role :: :serving | :joined | :searching
  @type user :: non_neg_integer() | nil
  @typedoc "Times are in milliseconds since 1970."
  @type departed ::
          {String.t(), :inet.port_number(), registered :: non_neg_integer(), left :: non_neg_integer(),
           times :: non_neg_integer(), since :: non_neg_integer()}
  @type change ::
          {:registered, String.t(), :inet.port_number(), creation :: pos_integer(), user()}
          | {:unregistered, String.t(), :inet.port_number()}
          | {:refused, String.t(), reason :: String.t()}
          | {:role, role() | :stopped}
          | {:table, :owner}

  @doc "Loads the library. Loading it again is not an error."
  @spec load() :: :ok | {:error, {charlist(), charlist()}}
  def load do
    case :code.priv_dir(:embedded_epmd) do
      {:error, :bad_name} ->
        {:error, {~c"priv/native/epmd_nif.so", ~c"the application embedded_epmd is not on the code path"}}

      priv ->
        path = :filename.join([priv, ~c"native", ~c"epmd_nif"])

        case :erlang.load_nif(path, 0) do
          :ok -> stick()
          {:error, {:reload, _}} -> stick()
          {:error, {_, text}} -> {:error, {path ++ ~c".so", text}}
        end
    end
  end

  # OTP protects its own modules in the same way.
  defp stick do
    true = :code.stick_mod(__MODULE__)
    :ok
  end

  @spec start(config(), pid()) :: {:ok, server()} | {:error, reason()}
  def start(_config, _keeper), do: :erlang.nif_error(:nif_not_loaded)

  @spec stop(server(), vm_ends :: boolean()) :: :ok
  def stop(_server, _vm_ends), do: :erlang.nif_error(:nif_not_loaded)

  @spec register(
          server(),
          String.t(),
          :inet.port_number(),
          {highest :: 0..65_535, lowest :: 0..65_535},
          creation :: pos_integer() | nil,
          pid()
        ) :: {:ok, pos_integer()} | {:error, reason()}
  def register(_server, _name, _port, _versions, _creation, _registrant),
    do: :erlang.nif_error(:nif_not_loaded)

  @spec lookup(server(), :inet.ip_address(), String.t()) ::
          {:port, :inet.port_number(), highest :: 0..65_535, lowest :: 0..65_535, user()}
          | :noport
          | :unsettled
          | :owner
          | :elsewhere
          | :stopped
  def lookup(_server, _ip, _name), do: :erlang.nif_error(:nif_not_loaded)

  @spec place(server(), :inet.ip_address()) :: role() | :elsewhere
  def place(_server, _ip), do: :erlang.nif_error(:nif_not_loaded)

  @spec names(server()) :: [{String.t(), :inet.port_number(), user()}] | :elsewhere
  def names(_server), do: :erlang.nif_error(:nif_not_loaded)

  @spec departed(server()) :: [departed()] | :elsewhere
  def departed(_server), do: :erlang.nif_error(:nif_not_loaded)

  @spec log_from(server(), :none | :logger.level()) :: :ok
  def log_from(_server, _level), do: :erlang.nif_error(:nif_not_loaded)

  @doc "Sends `pid` the message `{:embedded_epmd, :events}` when log entries or changes wait."
  @spec claim(server(), pid()) :: {:ok, :ok} | {:error, :stopped}
  def claim(_server, _pid), do: :erlang.nif_error(:nif_not_loaded)

  @spec take(server()) ::
          {[entry()], [{number :: pos_integer(), change()}], lost :: non_neg_integer(), again :: boolean()}
  def take(_server), do: :erlang.nif_error(:nif_not_loaded)

  @spec follow(server(), boolean()) :: :ok
  def follow(_server, _followed), do: :erlang.nif_error(:nif_not_loaded)

  @spec snapshot(server()) ::
          {number :: non_neg_integer(), role(), [{String.t(), :inet.port_number(), creation :: pos_integer(), user()}]}
  def snapshot(_server), do: :erlang.nif_error(:nif_not_loaded)

  @doc "The answer of the process that has claimed the server to the message `{:embedded_epmd, :probe}`."
  @spec answer_probe(server()) :: :ok
  def answer_probe(_server), do: :erlang.nif_error(:nif_not_loaded)

  @spec put_ready(server(), boolean()) :: :ok
  def put_ready(_server, _ready), do: :erlang.nif_error(:nif_not_loaded)

  @doc "How many nodes the VM's cluster expects, and how many of these are connected."
  @spec put_cluster(server(), non_neg_integer(), non_neg_integer()) :: :ok
  def put_cluster(_server, _expected, _connected), do: :erlang.nif_error(:nif_not_loaded)

  @spec metrics(server()) :: %{atom() => non_neg_integer()}
  def metrics(_server), do: :erlang.nif_error(:nif_not_loaded)

  @spec configure(server(), config()) :: {:ok, :ok} | {:error, reason()}
  def configure(_server, _config), do: :erlang.nif_error(:nif_not_loaded)

  @spec status(server()) :: map()
  def status(_server), do: :erlang.nif_error(:nif_not_loaded)

  @doc "Names the VM's node to those for whom it stands by, where it registers over TCP."
  @spec name_node(server(), String.t() | nil) :: :ok
  def name_node(_server, _name), do: :erlang.nif_error(:nif_not_loaded)

  @doc "The numbers of the descriptors that the service manager passed to this process for an EPMD."
  @spec passed(server()) :: [non_neg_integer()]
  def passed(_server), do: :erlang.nif_error(:nif_not_loaded)

  @doc """
  The port of this range that a node is to listen on, and a port that was stepped over; 0 where there is none. The range
  has at most 1000 ports.
  """
  @spec plan(
          String.t(),
          {first :: :inet.port_number(), last :: :inet.port_number()},
          [:inet.port_number()],
          left :: [{binary(), :inet.port_number()}]
        ) :: {:inet.port_number(), :inet.port_number()}
  def plan(_name, _range, _ports, _left), do: :erlang.nif_error(:nif_not_loaded)

  @doc "The number of this process's user."
  @spec own_user() :: non_neg_integer()
  def own_user, do: :erlang.nif_error(:nif_not_loaded)

  @doc "The number of a user of this host, given by name or number; `nil` if there is none."
  @spec user(String.t()) :: user()
  def user(_name), do: :erlang.nif_error(:nif_not_loaded)

  @doc "The addresses of a host, as the system's resolver tells them; it may ask the DNS."
  @spec resolve(String.t()) :: [String.t()]
  def resolve(_host), do: :erlang.nif_error(:nif_not_loaded)
end
