"""Works that a methods section may cite: key to (text, address)."""

_DOI = "https://doi.org/"

REFERENCES: dict[str, tuple[str, str]] = {
    "alaverdyan2020": (
        "Alaverdyan Z, Jung J, Bouet R, Lartizien C. Regularized siamese neural network for "
        "unsupervised outlier detection on brain multiparametric magnetic resonance imaging: "
        "application to epilepsy lesion screening. Medical Image Analysis 2020;60:101618.",
        _DOI + "10.1016/j.media.2019.101618",
    ),
    "alexander2001": (
        "Alexander DC, Pierpaoli C, Basser PJ, Gee JC. Spatial transformations of diffusion tensor "
        "magnetic resonance images. IEEE Transactions on Medical Imaging 2001;20:1131–1139.",
        _DOI + "10.1109/42.963816",
    ),
    "andersson2003": (
        "Andersson JLR, Skare S, Ashburner J. How to correct susceptibility distortions in "
        "spin-echo echo-planar images: application to diffusion tensor imaging. NeuroImage "
        "2003;20:870–888.",
        _DOI + "10.1016/S1053-8119(03)00336-7",
    ),
    "andersson2016": (
        "Andersson JLR, Sotiropoulos SN. An integrated approach to correction for off-resonance "
        "effects and subject movement in diffusion MR imaging. NeuroImage 2016;125:1063–1078.",
        _DOI + "10.1016/j.neuroimage.2015.10.019",
    ),
    "arsigny2006": (
        "Arsigny V, Fillard P, Pennec X, Ayache N. Log-Euclidean metrics for fast and simple "
        "calculus on diffusion tensors. Magnetic Resonance in Medicine 2006;56:411–421.",
        _DOI + "10.1002/mrm.20965",
    ),
    "avants2008": (
        "Avants BB, Epstein CL, Grossman M, Gee JC. Symmetric diffeomorphic image registration "
        "with cross-correlation: evaluating automated labeling of elderly and neurodegenerative "
        "brain. Medical Image Analysis 2008;12:26–41.",
        _DOI + "10.1016/j.media.2007.06.004",
    ),
    "avants2011": (
        "Avants BB, Tustison NJ, Song G, Cook PA, Klein A, Gee JC. A reproducible evaluation of "
        "ANTs similarity metric performance in brain image registration. NeuroImage "
        "2011;54:2033–2044.",
        _DOI + "10.1016/j.neuroimage.2010.09.025",
    ),
    "avants2011atropos": (
        "Avants BB, Tustison NJ, Wu J, Cook PA, Gee JC. An open source multivariate framework for "
        "n-tissue segmentation with evaluation on public data. Neuroinformatics 2011;9:381–400.",
        _DOI + "10.1007/s12021-011-9109-y",
    ),
    "bach2015": (
        "Bach S, Binder A, Montavon G, Klauschen F, Müller KR, Samek W. On pixel-wise "
        "explanations for non-linear classifier decisions by layer-wise relevance propagation. "
        "PLoS ONE 2015;10:e0130140.",
        _DOI + "10.1371/journal.pone.0130140",
    ),
    "bach2016": (
        "Bach S, Binder A, Müller KR, Samek W. Controlling explanatory heatmap resolution and "
        "semantics via decomposition depth. IEEE International Conference on Image Processing "
        "2016:2271–2275.",
        _DOI + "10.1109/ICIP.2016.7532763",
    ),
    "benjamini1995": (
        "Benjamini Y, Hochberg Y. Controlling the false discovery rate: a practical and powerful "
        "approach to multiple testing. Journal of the Royal Statistical Society: Series B "
        "1995;57:289–300.",
        _DOI + "10.1111/j.2517-6161.1995.tb02031.x",
    ),
    "bergstra2012": (
        "Bergstra J, Bengio Y. Random search for hyper-parameter optimization. Journal of Machine "
        "Learning Research 2012;13:281–305.",
        "https://jmlr.org/papers/v13/bergstra12a.html",
    ),
    "boehle2019": (
        "Böhle M, Eitel F, Weygandt M, Ritter K. Layer-wise relevance propagation for explaining "
        "deep neural network decisions in MRI-based Alzheimer's disease classification. Frontiers "
        "in Aging Neuroscience 2019;11:194.",
        _DOI + "10.3389/fnagi.2019.00194",
    ),
    "chang2005": (
        "Chang LC, Jones DK, Pierpaoli C. RESTORE: robust estimation of tensors by outlier "
        "rejection. Magnetic Resonance in Medicine 2005;53:1088–1095.",
        _DOI + "10.1002/mrm.20426",
    ),
    "chung2001": (
        "Chung MK, Worsley KJ, Paus T, Cherif C, Collins DL, Giedd JN, Rapoport JL, Evans AC. A "
        "unified statistical approach to deformation-based morphometry. NeuroImage "
        "2001;14:595–606.",
        _DOI + "10.1006/nimg.2001.0862",
    ),
    "cortes1995": (
        "Cortes C, Vapnik V. Support-vector networks. Machine Learning 1995;20:273–297.",
        _DOI + "10.1007/BF00994018",
    ),
    "delong1988": (
        "DeLong ER, DeLong DM, Clarke-Pearson DL. Comparing the areas under two or more "
        "correlated receiver operating characteristic curves: a nonparametric approach. "
        "Biometrics 1988;44:837–845.",
        _DOI + "10.2307/2531595",
    ),
    "descoteaux2008": (
        "Descoteaux M, Wiest-Daesslé N, Prima S, Barillot C, Deriche R. Impact of Rician adapted "
        "non-local means filtering on HARDI. Medical Image Computing and Computer-Assisted "
        "Intervention (MICCAI) 2008:122–130.",
        _DOI + "10.1007/978-3-540-85990-1_15",
    ),
    "eitel2019": (
        "Eitel F, Soehler E, Bellmann-Strobl J, et al. Uncovering convolutional neural network "
        "decisions for diagnosing multiple sclerosis on conventional MRI using layer-wise "
        "relevance propagation. NeuroImage: Clinical 2019;24:102003.",
        _DOI + "10.1016/j.nicl.2019.102003",
    ),
    "eitel2021": (
        "Eitel F, Albrecht JP, Weygandt M, Paul F, Ritter K. Patch individual filter layers in "
        "CNNs to harness the spatial homogeneity of neuroimaging data. Scientific Reports "
        "2021;11:24447.",
        _DOI + "10.1038/s41598-021-03785-9",
    ),
    "eitelritter2019": (
        "Eitel F, Ritter K. Testing the robustness of attribution methods for convolutional neural "
        "networks in MRI-based Alzheimer's disease classification. Interpretability of Machine "
        "Intelligence in Medical Image Computing, LNCS 2019;11797:3–11.",
        _DOI + "10.1007/978-3-030-33850-3_1",
    ),
    "estudillo2022": (
        "Estudillo-Romero A, Haegelen C, Jannin P, Baxter JSH. Voxel-based diktiometry: combining "
        "convolutional neural networks with voxel-based analysis and its application in diffusion "
        "tensor imaging for Parkinson's disease. medRxiv 2022.",
        _DOI + "10.1101/2022.05.25.22275580",
    ),
    "fisch2024": (
        "Fisch L, Zumdick S, Barkhau C, et al. deepbet: fast brain extraction of T1-weighted MRI "
        "using convolutional neural networks. Computers in Biology and Medicine 2024;179:108845.",
        _DOI + "10.1016/j.compbiomed.2024.108845",
    ),
    "fonov2009": (
        "Fonov VS, Evans AC, McKinstry RC, Almli CR, Collins DL. Unbiased nonlinear average "
        "age-appropriate brain templates from birth to adulthood. NeuroImage 2009;47(Suppl "
        "1):S102.",
        _DOI + "10.1016/S1053-8119(09)70884-5",
    ),
    "fonov2011": (
        "Fonov V, Evans AC, Botteron K, Almli CR, McKinstry RC, Collins DL. Unbiased average "
        "age-appropriate atlases for pediatric studies. NeuroImage 2011;54:313–327.",
        _DOI + "10.1016/j.neuroimage.2010.07.033",
    ),
    "fortin2017": (
        "Fortin JP, Parker D, Tunç B, et al. Harmonization of multi-site diffusion tensor imaging "
        "data. NeuroImage 2017;161:149–170.",
        _DOI + "10.1016/j.neuroimage.2017.08.047",
    ),
    "freedman1983": (
        "Freedman D, Lane D. A nonstochastic interpretation of reported significance levels. "
        "Journal of Business and Economic Statistics 1983;1:292–298.",
        _DOI + "10.1080/07350015.1983.10509354",
    ),
    "garyfallidis2014": (
        "Garyfallidis E, Brett M, Amirbekian B, et al. Dipy, a library for the analysis of "
        "diffusion MRI data. Frontiers in Neuroinformatics 2014;8:8.",
        _DOI + "10.3389/fninf.2014.00008",
    ),
    "gorgolewski2011": (
        "Gorgolewski K, Burns CD, Madison C, et al. Nipype: a flexible, lightweight and extensible "
        "neuroimaging data processing framework in Python. Frontiers in Neuroinformatics "
        "2011;5:13.",
        _DOI + "10.3389/fninf.2011.00013",
    ),
    "gorgolewski2016": (
        "Gorgolewski KJ, Auer T, Calhoun VD, et al. The brain imaging data structure, a format for "
        "organizing and describing outputs of neuroimaging experiments. Scientific Data "
        "2016;3:160044.",
        _DOI + "10.1038/sdata.2016.44",
    ),
    "gorgolewski2017": (
        "Gorgolewski KJ, Alfaro-Almagro F, Auer T, et al. BIDS apps: improving ease of use, "
        "accessibility, and reproducibility of neuroimaging data analysis methods. PLoS "
        "Computational Biology 2017;13:e1005209.",
        _DOI + "10.1371/journal.pcbi.1005209",
    ),
    "hanley1982": (
        "Hanley JA, McNeil BJ. The meaning and use of the area under a receiver operating "
        "characteristic (ROC) curve. Radiology 1982;143:29–36.",
        _DOI + "10.1148/radiology.143.1.7063747",
    ),
    "harris2020": (
        "Harris CR, Millman KJ, van der Walt SJ, et al. Array programming with NumPy. Nature "
        "2020;585:357–362.",
        _DOI + "10.1038/s41586-020-2649-2",
    ),
    "he2016": (
        "He K, Zhang X, Ren S, Sun J. Deep residual learning for image recognition. IEEE "
        "Conference on Computer Vision and Pattern Recognition 2016:770–778.",
        _DOI + "10.1109/CVPR.2016.90",
    ),
    "hunter2007": (
        "Hunter JD. Matplotlib: a 2D graphics environment. Computing in Science and Engineering "
        "2007;9:90–95.",
        _DOI + "10.1109/MCSE.2007.55",
    ),
    "iglesias2011": (
        "Iglesias JE, Liu CY, Thompson PM, Tu Z. Robust brain extraction across datasets and "
        "comparison with publicly available methods. IEEE Transactions on Medical Imaging "
        "2011;30:1617–1634.",
        _DOI + "10.1109/TMI.2011.2138152",
    ),
    "johnson2007": (
        "Johnson WE, Li C, Rabinovic A. Adjusting batch effects in microarray expression data "
        "using empirical Bayes methods. Biostatistics 2007;8:118–127.",
        _DOI + "10.1093/biostatistics/kxj037",
    ),
    "kellner2016": (
        "Kellner E, Dhital B, Kiselev VG, Reisert M. Gibbs-ringing artifact removal based on local "
        "subvoxel-shifts. Magnetic Resonance in Medicine 2016;76:1574–1581.",
        _DOI + "10.1002/mrm.26054",
    ),
    "kingma2015": (
        "Kingma DP, Ba J. Adam: a method for stochastic optimization. International Conference on "
        "Learning Representations 2015.",
        "https://arxiv.org/abs/1412.6980",
    ),
    "kascenas2022": (
        "Kascenas A, Pugeault N, O'Neil AQ. Denoising autoencoders for unsupervised anomaly "
        "detection in brain MRI. Medical Imaging with Deep Learning (MIDL) 2022, PMLR "
        "172:653–664.",
        "https://proceedings.mlr.press/v172/kascenas22a.html",
    ),
    "klingenberg2021": (
        "Klingenberg M, Stark D, Eitel F, Ritter K. MRI image registration considerably improves "
        "CNN-based disease classification. Machine Learning in Clinical Neuroimaging, LNCS "
        "2021;13001:44–52.",
        _DOI + "10.1007/978-3-030-87586-2_5",
    ),
    "liu2018": (
        "Liu M, Cheng D, Wang K, Wang Y. Multi-modality cascaded convolutional neural networks for "
        "Alzheimer's disease diagnosis. Neuroinformatics 2018;16:295–308.",
        _DOI + "10.1007/s12021-018-9370-4",
    ),
    "mcnemar1947": (
        "McNemar Q. Note on the sampling error of the difference between correlated "
        "proportions or percentages. Psychometrika 1947;12:153–157.",
        _DOI + "10.1007/BF02295996",
    ),
    "montavon2017": (
        "Montavon G, Lapuschkin S, Binder A, Samek W, Müller KR. Explaining nonlinear "
        "classification decisions with deep Taylor decomposition. Pattern Recognition "
        "2017;65:211–222.",
        _DOI + "10.1016/j.patcog.2016.11.008",
    ),
    "montavon2019": (
        "Montavon G, Binder A, Lapuschkin S, Samek W, Müller KR. Layer-wise relevance propagation: "
        "an overview. Explainable AI, Lecture Notes in Computer Science 2019;11700:193–209.",
        _DOI + "10.1007/978-3-030-28954-6_10",
    ),
    "munozramirez2021": (
        "Muñoz-Ramírez V, Pinon N, Forbes F, Lartizien C, Dojat M. Patch vs. global image-based "
        "unsupervised anomaly detection in MR brain scans of early Parkinsonian patients. Machine "
        "Learning in Clinical Neuroimaging (MLCN) 2021, LNCS 13001:34–43.",
        _DOI + "10.1007/978-3-030-87586-2_4",
    ),
    "nazari2021": (
        "Nazari M, Kluge A, Apostolova I, et al. Data-driven identification of diagnostically "
        "useful extrastriatal signal in dopamine transporter SPECT using explainable AI. "
        "Scientific Reports 2021;11:22932.",
        _DOI + "10.1038/s41598-021-02385-x",
    ),
    "nichols2002": (
        "Nichols TE, Holmes AP. Nonparametric permutation tests for functional neuroimaging: a "
        "primer with examples. Human Brain Mapping 2002;15:1–25.",
        _DOI + "10.1002/hbm.1058",
    ),
    "owen2007": (
        "Owen AB. The pigeonhole bootstrap. Annals of Applied Statistics 2007;1:386–411.",
        _DOI + "10.1214/07-AOAS122",
    ),
    "paszke2019": (
        "Paszke A, Gross S, Massa F, et al. PyTorch: an imperative style, high-performance deep "
        "learning library. Advances in Neural Information Processing Systems 2019;32:8024–8035.",
        "https://arxiv.org/abs/1912.01703",
    ),
    "pedregosa2011": (
        "Pedregosa F, Varoquaux G, Gramfort A, et al. Scikit-learn: machine learning in Python. "
        "Journal of Machine Learning Research 2011;12:2825–2830.",
        "https://jmlr.org/papers/v12/pedregosa11a.html",
    ),
    "rieke2018": (
        "Rieke J, Eitel F, Weygandt M, Haynes JD, Ritter K. Visualizing convolutional networks for "
        "MRI-based diagnosis of Alzheimer's disease. 2018.",
        "https://arxiv.org/abs/1808.02874",
    ),
    "selvaraju2017": (
        "Selvaraju RR, Cogswell M, Das A, Vedantam R, Parikh D, Batra D. Grad-CAM: visual "
        "explanations from deep networks via gradient-based localization. IEEE International "
        "Conference on Computer Vision 2017:618–626.",
        _DOI + "10.1109/ICCV.2017.74",
    ),
    "shrikumar2016": (
        "Shrikumar A, Greenside P, Shcherbina A, Kundaje A. Not just a black box: learning "
        "important features through propagating activation differences. 2016.",
        "https://arxiv.org/abs/1605.01713",
    ),
    "simonyan2014": (
        "Simonyan K, Vedaldi A, Zisserman A. Deep inside convolutional networks: visualising image "
        "classification models and saliency maps. Workshop at the International Conference on "
        "Learning Representations 2014.",
        "https://arxiv.org/abs/1312.6034",
    ),
    "smilkov2017": (
        "Smilkov D, Thorat N, Kim B, Viégas F, Wattenberg M. SmoothGrad: removing noise by adding "
        "noise. 2017.",
        "https://arxiv.org/abs/1706.03825",
    ),
    "smith2009": (
        "Smith SM, Nichols TE. Threshold-free cluster enhancement: addressing problems of "
        "smoothing, threshold dependence and localisation in cluster inference. NeuroImage "
        "2009;44:83–98.",
        _DOI + "10.1016/j.neuroimage.2008.03.061",
    ),
    "smith2019": (
        "Smith LN, Topin N. Super-convergence: very fast training of neural networks using large "
        "learning rates. 2019.",
        "https://arxiv.org/abs/1708.07120",
    ),
    "springenberg2015": (
        "Springenberg JT, Dosovitskiy A, Brox T, Riedmiller M. Striving for simplicity: the all "
        "convolutional net. Workshop at the International Conference on Learning Representations "
        "2015.",
        "https://arxiv.org/abs/1412.6806",
    ),
    "sundararajan2017": (
        "Sundararajan M, Taly A, Yan Q. Axiomatic attribution for deep networks. International "
        "Conference on Machine Learning 2017:3319–3328.",
        "https://arxiv.org/abs/1703.01365",
    ),
    "tournier2019": (
        "Tournier JD, Smith R, Raffelt D, et al. MRtrix3: a fast, flexible and open software "
        "framework for medical image processing and visualisation. NeuroImage 2019;202:116137.",
        _DOI + "10.1016/j.neuroimage.2019.116137",
    ),
    "tustison2010": (
        "Tustison NJ, Avants BB, Cook PA, et al. N4ITK: improved N3 bias correction. IEEE "
        "Transactions on Medical Imaging 2010;29:1310–1320.",
        _DOI + "10.1109/TMI.2010.2046908",
    ),
    "tzourio2002": (
        "Tzourio-Mazoyer N, Landeau B, Papathanassiou D, et al. Automated anatomical labeling of "
        "activations in SPM using a macroscopic anatomical parcellation of the MNI MRI "
        "single-subject brain. NeuroImage 2002;15:273–289.",
        _DOI + "10.1006/nimg.2001.0978",
    ),
    "valverde2014": (
        "Valverde S, Oliver A, Lladó X. A white matter lesion-filling approach to improve brain "
        "tissue volume measurements. NeuroImage: Clinical 2014;6:86–92.",
        _DOI + "10.1016/j.nicl.2014.08.016",
    ),
    "varma2006": (
        "Varma S, Simon R. Bias in error estimation when using cross-validation for model "
        "selection. BMC Bioinformatics 2006;7:91.",
        _DOI + "10.1186/1471-2105-7-91",
    ),
    "veraart2016": (
        "Veraart J, Novikov DS, Christiaens D, Ades-Aron B, Sijbers J, Fieremans E. Denoising of "
        "diffusion MRI using random matrix theory. NeuroImage 2016;142:394–406.",
        _DOI + "10.1016/j.neuroimage.2016.08.016",
    ),
    "virtanen2020": (
        "Virtanen P, Gommers R, Oliphant TE, et al. SciPy 1.0: fundamental algorithms for "
        "scientific computing in Python. Nature Methods 2020;17:261–272.",
        _DOI + "10.1038/s41592-019-0686-2",
    ),
    "winkler2014": (
        "Winkler AM, Ridgway GR, Webster MA, Smith SM, Nichols TE. Permutation inference for the "
        "general linear model. NeuroImage 2014;92:381–397.",
        _DOI + "10.1016/j.neuroimage.2014.01.060",
    ),
    "winkler2016": (
        "Winkler AM, Ridgway GR, Douaud G, Nichols TE, Smith SM. Faster permutation inference in "
        "brain imaging. NeuroImage 2016;141:502–516.",
        _DOI + "10.1016/j.neuroimage.2016.05.068",
    ),
    "worsley1996": (
        "Worsley KJ, Marrett S, Neelin P, Vandal AC, Friston KJ, Evans AC. A unified statistical "
        "approach for determining significant signals in images of cerebral activation. Human "
        "Brain Mapping 1996;4:58–73.",
        _DOI + "10.1002/(SICI)1097-0193(1996)4:1<58::AID-HBM4>3.0.CO;2-O",
    ),
    "yarkoni2019": (
        "Yarkoni T, Markiewicz CJ, de la Vega A, et al. PyBIDS: Python tools for BIDS datasets. "
        "Journal of Open Source Software 2019;4:1294.",
        _DOI + "10.21105/joss.01294",
    ),
    "zeiler2014": (
        "Zeiler MD, Fergus R. Visualizing and understanding convolutional networks. European "
        "Conference on Computer Vision 2014:818–833.",
        _DOI + "10.1007/978-3-319-10590-1_53",
    ),
}
