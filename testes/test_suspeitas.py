"""O que o notebook diz do dataset e de si: rótulos trocados, cópias, calibração, e para onde a rede olhou."""

import io

import numpy as np
import pytest
from conftest import executa
from PIL import Image, ImageOps

CLASSES = ["gato", "cachorro"]


@pytest.fixture(scope="module")
def reais(nb, dados_reais, backbone, tmp_path_factory):
    """Builder, vetores e rótulos das 2.000 fotos reais."""
    construtor = nb.tfds.builder("cats_vs_dogs", data_dir=str(dados_reais))
    X, _ = nb.extrai_caracteristicas(construtor, 2000, backbone, nb.escolhe_motor("auto"), tmp_path_factory.mktemp("reais"))
    return construtor, X, nb.le_rotulos(construtor, 2000)[0]


def fora_da_amostra(nb, X, y, pasta, epocas):
    return nb.validacao_cruzada(X, y, 32, epocas, 42, pasta, "r")


def trocados(y, quantos):
    """Os rótulos com `quantos` deles trocados, e quais."""
    quais = np.random.default_rng(0).choice(len(y), quantos, replace=False)
    trocado = y.copy()
    trocado[quais] = 1 - trocado[quais]
    return trocado, set(quais.tolist())


def test_40_rotulos_trocados_aparecem_entre_os_80_mais_suspeitos(nb, reais, tmp_path):
    _, X, y = reais
    trocado, plantados = trocados(y, 40)
    p = fora_da_amostra(nb, X, trocado, tmp_path, 100)
    linhas = nb.lista_suspeitas(trocado, p, [], [], np.array([f"{i}.jpg" for i in range(2000)]), CLASSES)
    achados = plantados & {linha["indice"] for linha in linhas[:80]}
    print(f"{len(achados)} de 40 entre os {len(linhas[:80])} mais suspeitos")
    assert len(achados) >= 38


def test_o_erro_de_calibracao_fora_da_amostra_e_de_no_maximo_um_centesimo(nb, reais, tmp_path):
    _, X, y = reais
    ece, linhas = nb.calibracao(y, fora_da_amostra(nb, X, y, tmp_path, 100))
    assert sum(n for *_, n in linhas) == 2000 and ece <= 0.01


def test_a_calibracao_e_a_conta_da_definicao(nb):
    p, y = np.array([0.05, 0.05, 0.95, 0.95, 1.0]), np.array([0, 1, 1, 1, 0])
    ece, linhas = nb.calibracao(y, p)
    assert ece == pytest.approx((2 * abs(0.5 - 0.05) + 3 * abs(2 / 3 - 2.9 / 3)) / 5)
    assert [n for *_, n in linhas] == [2, 3]


def disfarca(foto, i):
    """Uma cópia da foto: regravada com outra qualidade, e conforme i reduzida a 80 %, espelhada ou as duas coisas."""
    foto = ImageOps.mirror(foto) if i % 2 else foto
    foto = foto.resize((foto.width * 8 // 10, foto.height * 8 // 10), Image.Resampling.BILINEAR) if i // 2 % 2 else foto
    arquivo = io.BytesIO()
    foto.convert("RGB").save(arquivo, "JPEG", quality=50)
    arquivo.seek(0)
    return arquivo


def com_copias(nb, construtor, quantas, pasta):
    """O mesmo dataset com mais `quantas` fotos, cópias disfarçadas de fotos dele."""
    n = construtor.info.splits["train"].num_examples
    copiadas = np.random.default_rng(1).choice(n, quantas, replace=False).tolist()

    def exemplos():
        for i, exemplo in enumerate(nb.le_fotos(construtor, (0, n)).as_numpy_iterator()):
            rotulo, arquivo = int(exemplo["label"]), exemplo["image/filename"].decode()
            yield arquivo, {"image": io.BytesIO(exemplo["image"]), "image/filename": arquivo, "label": rotulo}
            if i in copiadas:
                arquivo = f"copia/{arquivo}"
                disfarce = disfarca(Image.open(io.BytesIO(exemplo["image"])), copiadas.index(i))
                yield arquivo, {"image": disfarce, "image/filename": arquivo, "label": rotulo}
    atributos = nb.tfds.features.FeaturesDict({
        "image": nb.tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
        "image/filename": nb.tfds.features.Text(), "label": nb.tfds.features.ClassLabel(names=["cat", "dog"])})
    nb.tfds.dataset_builders.store_as_tfds_dataset(name="com_copias", version="1.0.0", data_dir=pasta, features=atributos,
                                                   split_datasets={"train": exemplos()})
    return nb.tfds.builder_from_directory(pasta / "com_copias/1.0.0")


def test_copias_disfarcadas_sao_todas_achadas_e_nenhuma_e_inventada(nb, reais, backbone, tmp_path):
    construtor = com_copias(nb, reais[0], 80, tmp_path)
    _, arquivos = nb.le_rotulos(construtor, 2080)
    X, _ = nb.extrai_caracteristicas(construtor, 2080, backbone, nb.escolhe_motor("auto"), tmp_path / "modelos")
    achadas = {frozenset((arquivos[i], arquivos[j])) for i, j in nb.acha_copias(construtor, X)}
    plantadas = {frozenset((nome, nome.removeprefix("copia/"))) for nome in arquivos if nome.startswith("copia/")}
    lugar = {nome: next(parte for parte, (a, b) in nb.divide(2080).items() if a <= i < b) for i, nome in enumerate(arquivos)}
    separadas = [par for par in plantadas if len({lugar[nome] for nome in par}) == 2]
    falsas = {par for par in achadas - plantadas if not any(nome.startswith("copia/") for nome in par)}
    print(f"{len(plantadas & achadas)} de {len(plantadas)} cópias achadas, {len(separadas)} delas em partes diferentes; "
          f"{len(falsas)} outros pares")
    assert len(plantadas) == 80 and len(separadas) >= 20
    assert plantadas <= achadas and len(falsas) <= 5


def test_cada_cinzento_e_igual_a_si_e_ao_seu_espelho_e_uma_foto_lisa_nao_e_copia_de_nada(nb):
    foto = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype="uint8")
    assert (nb.miniatura(foto) * nb.miniatura(foto[:, ::-1])[:, ::-1]).sum() == pytest.approx(1, abs=0.02)
    assert not nb.miniatura(np.full((50, 70, 3), 9, "uint8")).any()


def test_a_lista_junta_os_motivos_e_poe_os_rotulos_primeiro(nb):
    y, p = np.array([0, 1, 0, 1, 0]), np.array([0.99, 0.9, 0.7, 0.99, 0.01])
    linhas = nb.lista_suspeitas(y, p, [(0, 3)], [4], np.array(list("abcde")), CLASSES)
    assert [linha["arquivo"] for linha in linhas] == ["a", "c", "d", "e"]
    assert linhas[0]["motivo"] == "rótulo: parece cachorro; cópia de d" and linhas[2]["motivo"] == "cópia de a"
    assert linhas[0]["rotulo"] == "gato" and linhas[0]["probabilidade_cachorro"] == 0.99


@pytest.mark.parametrize("nome, tolerancia", [("EfficientNetLite0", 1e-3), ("EfficientNetLite1+EfficientNetLite2", 0.3)])
def test_a_media_do_mapa_mais_o_vies_e_a_decisao(nb, amostra, nome, tolerancia):
    """Exata onde a grade da rede divide os 224 pixels; no Lite2 (grade de 9) o redimensionamento do mapa arredonda."""
    backbone = nb.cria_backbone(nome)
    cabeca = nb.cria_cabeca(backbone.output_shape[1])
    cabeca.set_weights([np.random.default_rng(0).normal(0, 0.1, w.shape) for w in cabeca.get_weights()])
    fotos = np.stack([img for img, _ in nb.le_fotos(amostra, (0, 6)).map(nb.prepara).as_numpy_iterator()])
    p = nb.junta(backbone, cabeca).predict(fotos, verbose=0)[:, 0].astype("float64")
    mapas = nb.onde_olhou(backbone, cabeca, fotos)
    assert mapas.shape == (6, 224, 224)
    np.testing.assert_allclose(mapas.mean((1, 2)) + cabeca.get_weights()[1], np.log(p / (1 - p)), atol=tolerancia)


def test_a_semelhanca_e_o_cosseno_medio_com_os_vizinhos(nb):
    X = np.random.default_rng(0).normal(size=(1200, 8)).astype("float32")
    U = nb.unitarios(X)
    np.testing.assert_allclose(nb.semelhanca(X, U, pula=1)[1100],
                               np.sort(np.delete(U @ U[1100], 1100))[-5:].mean(), atol=1e-5)
    assert nb.semelhanca(X, U, vizinhos=1) == pytest.approx(1, abs=1e-5)
    assert np.isfinite(nb.unitarios(np.zeros((1, 8)))).all()


def test_remove_suspeitas_so_tira_do_treino(tmp_path):
    processo, metricas = executa(tmp_path, DATASET="amostra", MAX_IMAGENS=400, EPOCAS=10, REMOVE_SUSPEITAS=True)
    assert processo.returncode == 0, processo.stderr[-3000:]
    assert (metricas["n_treino"], metricas["n_validacao"], metricas["n_teste"]) == (320, 40, 40)
    fora = int((tmp_path / "executado.ipynb").read_text(encoding="utf-8").split("fora do treino: ")[1].split("\\n")[0])
    assert 0 < fora < 100
    [*colunas], *linhas = (linha.split(",") for linha in (tmp_path / "modelos/suspeitas.csv").read_text("utf-8").splitlines())
    assert colunas == ["arquivo", "rotulo", "probabilidade_cachorro", "motivo"] and len(linhas) == metricas["suspeitas"]
